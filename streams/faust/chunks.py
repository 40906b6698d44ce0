"""Delivers fetched records from Kafka to the agent in chunks, and acks whole chunks.

    aiokafka's fetch ─▶ chunks of about `chunk_size` records ─▶ one Faust event each ─▶ agent
                                             commit ◀─ the end of the acked chain, by partition ◀─ ack

Stock Faust spends four tasks, a dozen calls and two sensors on each message: 0.25 ms, while a message's rules and
statements take 0.2 ms (docs/performance.md). Here it spends them on each chunk. Table changelogs use Faust's own path.

Faust stores acks as lists of offsets with gaps, which has lost and blocked commits (faust-streaming issues 596, 606). A
chunk is a span of offsets per partition; the offset to commit is the end of the unbroken chain of acked spans.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import faust
import structlog
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]  # aiokafka ships no types
from faust.tables import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams.faust.sensor import REMOVED
from streams.faust.spans import AckedChain, Chunk, Span, cut

structured = structlog.get_logger(__name__)

_GAP_RETRIES = 3
"""Times to seek back to missing offsets before they are treated as removed from the log."""


Resume = Callable[[str, Mapping[int, int | None], Mapping[int, int], Mapping[int, int]], Awaitable[Mapping[int, int]]]
"""From topic, committed offsets, and the log's first and next offsets to the offsets at which to read instead."""


class ChunkConsumer(Consumer):
    """Delivers records of the agents' topics as chunks. `ack` of a chunk's message acks the whole chunk."""

    transport: ChunkTransport
    _thread: FetchingThread

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._chain = AckedChain()
        self._gap_retries: Counter[TP] = Counter()
        """Consecutive seeks of a partition because its records began after the read position."""
        self._passed_over: set[TP] = set()
        """Partitions of the current fetch that were sought back; the rest of their records in it is skipped."""
        self._seeking = 0
        """The seeks that run now. Faust seeks at the end of a recovery, while the fetcher runs."""
        self._skipped: set[TP] = set()
        """Partitions whose records were fetched during a seek. After it they are read from where it ended."""
        self._missed: set[TP] = set()
        """Changelog partitions of which records were fetched while the flow was stopped, see `_return_to_missed`."""
        self._in_flight = 0
        """Chunks of the present assignment that were handed over and are not acked. It only shortens pauses."""
        self._landed = asyncio.Event()
        """Set when none is in flight any more."""
        self._moves = 0
        """Counts changes of the read position (seek, rebalance). A chunk in delivery during a change may be lost."""

    def _new_consumer_thread(self) -> FetchingThread:
        return FetchingThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's loop, but by chunk."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:  # here, so that missed records are sought before the first fetch, not after it
                    await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # as in Faust: any event will do
                if 0 < await self._deliver_next() < self.transport.chunk_size / 2:
                    await self._pause()
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise

    async def _pause(self) -> None:
        """Waits after a small chunk, so that the next ones do not get even smaller and cost more.

        At least a part of the transport's pause, and until the chunks in flight are acked, since a chunk of the same
        partitions would wait for them anyway; but never longer than the pause. So a quick machine adds little delay,
        and a busy one makes larger chunks.
        """
        least = self.transport.pause_s * self.transport.least_pause
        await self.sleep(least)
        if self._in_flight:
            self._landed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._landed.wait(), self.transport.pause_s - least)

    async def _deliver_next(self) -> int:
        """Delivers the fetched records; returns how many of them belong to the agents' topics."""
        await self._return_to_skipped()
        await self._return_to_missed()
        fetched, active = await self._wait_next_records(timeout=1.0)
        if not fetched or self.should_stop:
            return 0
        if not self.flow_active:
            self._missed.update(tp for tp in fetched if not self._is_ours(tp))
            await self._seek_back()
            return 0
        for_agents: dict[TP, Sequence[Any]] = {}
        for tp, records in fetched.items():
            if active is not None and tp not in active:
                continue
            if self._is_ours(tp):
                if self._seeking:
                    self._skipped.add(tp)
                else:
                    for_agents[tp] = records
            else:
                await self._deliver_singly(tp, records)
        count = 0
        self._passed_over.clear()
        for chunk in cut(for_agents, self.transport.chunk_size):
            if self.suspend_flow.is_set():  # a rebalance: the rest of this fetch is read again
                break
            count += await self._deliver(chunk)
        return count

    async def _return_to_skipped(self) -> None:
        while self._skipped and not self._seeking:
            tp = self._skipped.pop()
            if (start := self._read_offset[tp]) is not None:
                await self._seek(tp, start)

    async def _return_to_missed(self) -> None:
        """Reads changelog records again of which a recovery may have seen none.

        Faust seeks the changelogs in a rebalance without waiting for the fetch that runs (its wait for a stopped flow
        never waits). That fetch can take their records after the seek and end while the flow is stopped. Nothing seeks
        again then, and the recovery would wait for them until the watchdog ends the worker.
        """
        recovered = cast("TableManager", self.app.tables).recovery.active_offsets
        while self._missed and self.flow_active:
            tp = self._missed.pop()
            if tp in recovered:
                last = recovered[tp]
                await self._seek(tp, 0 if last is None else last + 1)

    async def _seek_back(self) -> None:
        """Seeks during a rebalance. It may fail, because Faust seeks again at the end of the rebalance."""
        try:
            await self.perform_seek()
        except (KafkaError, TimeoutError) as error:
            self.log.warning("Could not seek back during a rebalance: %r", error)

    async def _deliver_singly(self, tp: TP, records: Sequence[Any]) -> None:
        for record in records:
            if not self.flow_active:
                return
            await self.callback(self._to_message(tp, record))
            self._read_offset[tp] = record.offset

    async def _deliver(self, fetched: Mapping[TP, Sequence[Any]]) -> int:
        spans: dict[TP, Span] = {}
        chunk: list[Any] = []
        for tp, records in fetched.items():
            if tp in self._passed_over:
                continue
            start = self._read_offset[tp]
            if start is None:  # no seek since the assignment, so the read position is unknown
                self._passed_over.update(fetched)
                await self._seek_back()
                return 0
            new = [record for record in records if record.offset >= start]
            if new and await self._is_next(tp, new[0].offset, start):
                spans[tp] = Span(start, new[-1].offset + 1)
                chunk += new
        if not chunk:
            return 0
        self._chain.begin(spans)
        message = self._to_message(next(iter(spans)), chunk[-1])
        message.value = Chunk(chunk, spans)  # type: ignore[assignment]  # bytes to Faust, which only carries it here
        # A rebalance suspends the flow and empties the queue; after it, all uncommitted records are read again.
        self._in_flight += 1
        moves, handing_over = self._moves, asyncio.ensure_future(self._hand_over(message))
        await self.wait_first(handing_over, self.suspend_flow.wait())
        if not handing_over.done() or handing_over.cancelled():
            self._in_flight -= 1
        if handing_over.done() and not handing_over.cancelled() and self._moves == moves:
            self._read_offset.update({tp: span.end for tp, span in spans.items()})
        elif not (self.suspend_flow.is_set() or self.should_stop):  # a seek during delivery may have missed this fetch
            await self._seek_back()
        return len(chunk)

    async def _is_next(self, tp: TP, offset: int, start: int) -> bool:
        """Returns whether no offset is missing; else seeks back. A fetch from before a seek may arrive after it."""
        if offset == start:
            del self._gap_retries[tp]
            return True
        if self._gap_retries[tp] >= _GAP_RETRIES:  # removed by retention, or a transaction marker: nothing to read
            del self._gap_retries[tp]
            await self._report_gap(tp, start, offset)
            return True
        self._gap_retries[tp] += 1
        self._passed_over.add(tp)
        await self._seek(tp, start)
        return False

    async def _report_gap(self, tp: TP, start: int, offset: int) -> None:
        """Reports unread records that retention removed. Below the log's start nothing can be a transaction marker."""
        begins = (await self.earliest_offsets(tp))[tp]
        removed = min(begins, offset) - start
        if removed <= 0:
            self.log.warning("%r: no records from %d to %d", tp, start, offset - 1)
            return
        REMOVED.inc(removed)
        if self.transport.removed is not None:
            self.transport.removed(tp.topic, tp.partition)
        structured.error(
            "consumer.records_removed",
            action="consumer.records_removed",
            topic=tp.topic,
            partition=tp.partition,
            records=removed,
            reason="Kafka's retention deleted them before they were read: billing reconcile fetches them from Stripe",
        )

    async def _seek(self, partition: TP, offset: int) -> None:
        """Seeks in the thread of aiokafka's client, which is not safe to use from two: a fetch that runs would fail, or
        move the position on after the seek. Does nothing for a partition that was revoked meanwhile.
        """
        await self._thread.call_thread(self._thread.seek_if_assigned, partition, offset)

    async def perform_seek(self) -> None:
        """Seeks to the committed offsets, or to the log's start if there is none (Faust would not seek then)."""
        self._moves += 1
        self._seeking += 1
        try:
            await super().perform_seek()
            # Read before anything is awaited: the read position moves, and a moved one would look like a commit.
            committed = {tp: self._read_offset[tp] or None for tp in self.assignment() if self._is_ours(tp)}
            uncommitted = [tp for tp, offset in committed.items() if offset is None]
            if uncommitted:
                for tp, earliest in (await self.earliest_offsets(*uncommitted)).items():
                    await self._seek(tp, earliest)
                    self._read_offset[tp] = earliest
            if self.transport.resume is not None and committed:
                await self._resume_at_the_positions(self.transport.resume, committed)
        finally:
            self._seeking -= 1
            self._moves += 1  # a chunk begun during the seek was fetched before it, too

    async def _resume_at_the_positions(self, resume: Resume, committed: Mapping[TP, int | None]) -> None:
        """Seeks back where the database has less than the group has committed (streams/positions.py)."""
        begins, ends = await self.earliest_offsets(*committed), await self.highwaters(*committed)
        for topic in {tp.topic for tp in committed}:
            of_topic = {tp.partition: tp for tp in committed if tp.topic == topic}
            places = await resume(
                topic,
                {partition: committed[tp] for partition, tp in of_topic.items()},
                {partition: begins[tp] for partition, tp in of_topic.items()},
                {partition: ends[tp] for partition, tp in of_topic.items()},
            )
            for partition, offset in places.items():
                tp = of_topic[partition]
                await self._seek(tp, offset)
                self._read_offset[tp] = offset
                self._committed_offset[tp] = None  # so that lower offsets are committed, too
                self._chain.forget([tp])

    def _is_ours(self, tp: TP) -> bool:
        return bool(self.app.topics.acks_enabled_for(tp.topic))

    async def _hand_over(self, message: ConsumerMessage) -> None:
        for channel in self.app.topics._tp_index[message.tp]:  # type: ignore[attr-defined]  # the conductor's index, as its own handlers use it
            message.incref()
            await channel.queue.put(self.app.create_event(None, message.value, None, message))

    def ack(self, message: Any) -> bool:
        """Acks the chunk, unless the partitions have been reassigned since it was read."""
        chunk = message.value
        if not isinstance(chunk, Chunk):
            return super().ack(message)
        message.acked = True
        self._unacked_messages.discard(message)
        if message.generation_id != self.app.consumer_generation_id:
            return False
        self._chain.ack(chunk.spans)
        self._in_flight = max(0, self._in_flight - 1)
        if not self._in_flight:
            self._landed.set()
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._moves += 1
        self._chain.forget(revoked)
        for tp in revoked:
            del self._gap_retries[tp]
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begins new chains. A recovery that a rebalance interrupted resumes the flow: a chunk that was delivered since
        the revocation has begun a chain that its ack, of an older generation, never continues.
        """
        self._moves += 1
        self._in_flight = 0
        self._chain.forget(self._chain)
        await super().on_partitions_assigned(assigned, generation_id)

    def _filter_tps_with_pending_acks(self, topics: Iterable[Any] | None = None) -> Iterator[TP]:
        return (tp for tp in self._chain if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._chain.end(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        is_committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not is_committed:  # Faust records it as committed anyway and would not retry (issue 316)
            self._committed_offset.update(before)
        return is_committed

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Does nothing: Faust expects events of each partition but sees one per chunk. The watchdog checks the lag."""


class ChunkTransport(Transport):
    """Faust's transport with `ChunkConsumer`. After less than half of `chunk_size` records it pauses up to `pause_s`
    seconds.
    """

    Consumer = ChunkConsumer
    least_pause = 0.3
    """The shortest pause, as a part of the longest."""

    def __init__(self, app: faust.App, chunk_size: int, pause_s: float) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.chunk_size = chunk_size
        self.pause_s = pause_s
        self.resume: Resume | None = None
        """Returns, by partition, where to read instead of at the committed offset."""
        self.removed: Callable[[str, int], None] | None = None
        """Called with topic and partition when Kafka has deleted unread records, before the next chunk."""


_WAIT_MS = 100
"""Longest wait of a fetch, in milliseconds. An idle worker sends each broker ten small requests per second."""


class FetchingThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with a shorter fetch wait."""

    async def seek_if_assigned(self, partition: TP, offset: int) -> None:
        """Runs in the thread, where the assignment cannot change between the check and the seek."""
        consumer = self._ensure_consumer()
        if partition in consumer.assignment():
            consumer.seek(partition, offset)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _WAIT_MS
        return consumer
