"""Between Kafka and the agent: Faust's consumer, taught to hand over whole fetched chunks, and to ack them whole.

    aiokafka's fetch ─▶ chunks of about `chunk_size` records ─▶ one Faust event each ─▶ agent
                                             commit ◀─ the end of the acked chain, by partition ◀─ ack

Stock Faust spends four tasks, a dozen calls and two sensors on each message: 0.25 ms where a message's rules and
statements take 0.2 (docs/performance.md). Here they are spent on each chunk. Table changelogs still go its own way.

Faust's acks are lists of offsets with gaps between, which has lost and blocked commits (faust-streaming issues 596,
606). A chunk is simply a span; what may be committed is the end of the unbroken chain of acked spans.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]  # aiokafka ships no types
from faust.transport.drivers import aiokafka as driver
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP
from faust.types.tuples import ConsumerMessage

_LOOKS_BACK = 3
"""Times to ask for missing offsets before they are taken for gone."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: from where reading stood before the chunk to where it stands behind it."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of what a fetch brought, at least one record: aiokafka's, each partition's in its order."""

    records: Sequence[Any]
    spans: Mapping[TP, Span]

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(tp.partition for tp in self.spans)


class AckedChain:
    """By partition, how far all is acked without a gap: what may be committed.

    A span that is acked beyond a gap does not count, then or later: what a lost chunk leaves open stays uncommitted,
    and the watchdog ends the worker.
    """

    def __init__(self) -> None:
        self._ends: dict[TP, int] = {}

    def begin(self, spans: Mapping[TP, Span]) -> None:
        """Where nothing is known yet, the chain begins with these, which are about to be handed on."""
        for tp, span in spans.items():
            self._ends.setdefault(tp, span.start)

    def ack(self, spans: Mapping[TP, Span]) -> None:
        for tp, span in spans.items():
            end = self._ends.get(tp)
            if end is not None and span.start <= end:
                self._ends[tp] = max(end, span.end)

    def end(self, tp: TP) -> int | None:
        return self._ends.get(tp)

    def forget(self, partitions: Iterable[TP]) -> None:
        for tp in partitions:
            self._ends.pop(tp, None)

    def __iter__(self) -> Iterator[TP]:
        return iter(list(self._ends))


class ChunkConsumer(Consumer):
    """Records of topics that agents read become chunks; `ack` of a chunk's message takes all of it."""

    transport: ChunkTransport

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._chain = AckedChain()
        self._sent_back: Counter[TP] = Counter()
        """How often in a row a partition's records began behind where reading stands."""
        self._passed_over: set[TP] = set()
        """Of the fetch at hand: partitions sent back, of which nothing more is taken from it."""
        self._moves = 0
        """Counts what moves reading elsewhere: a chunk that was being handed over meanwhile may be lost."""

    def _new_consumer_thread(self) -> FetchingThread:
        return FetchingThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """As Faust's own loop, but by chunk. Behind a small chunk it pauses, so that the next ones are not smaller."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if 0 < await self._deliver_next() < self.transport.chunk_size / 2:
                    await self.sleep(self.transport.pause_s)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise

    async def _deliver_next(self) -> int:
        """All that has been fetched; returns how many records of agents' topics that is."""
        fetched, active = await self._wait_next_records(timeout=1.0)
        if not fetched or self.should_stop:
            return 0
        if not self.flow_active:
            await self._seek_back()
            return 0
        ours: dict[TP, Sequence[Any]] = {}
        for tp, records in fetched.items():
            if active is not None and tp not in active:
                continue
            if self._is_ours(tp):
                ours[tp] = records
            else:
                await self._deliver_singly(tp, records)
        count = 0
        self._passed_over.clear()
        for chunk in cut(ours, self.transport.chunk_size):
            if self.suspend_flow.is_set():  # a rebalance: what is left here is read again
                break
            count += await self._deliver(chunk)
        return count

    async def _seek_back(self) -> None:
        """Near a rebalance, whose end seeks once more: so this one may fail."""
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
            if start is None:  # nobody has sought since the assignment; where reading began is anyone's guess
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
        # The flow stops for a rebalance, which empties the queue, and behind which all uncommitted is read again.
        moves, handing_over = self._moves, asyncio.ensure_future(self._hand_over(message))
        await self.wait_first(handing_over, self.suspend_flow.wait())
        if handing_over.done() and not handing_over.cancelled() and self._moves == moves:
            self._read_offset.update({tp: span.end for tp, span in spans.items()})
        elif not (self.suspend_flow.is_set() or self.should_stop):  # whoever moved us need not have known of this fetch
            await self._seek_back()
        return len(chunk)

    async def _is_next(self, tp: TP, offset: int, start: int) -> bool:
        """Whether nothing was skipped. A fetch from before a seek may come behind it, from further on."""
        if offset == start:
            del self._sent_back[tp]
            return True
        if self._sent_back[tp] >= _LOOKS_BACK:  # retention or a transaction's marker: the log has nothing between
            self.log.warning("%r: no records from %d to %d", tp, start, offset - 1)
            del self._sent_back[tp]
            return True
        self._sent_back[tp] += 1
        self._passed_over.add(tp)
        await self._seek(tp, start)
        return False

    async def perform_seek(self) -> None:
        """To the committed offsets, and without one to the log's start: Faust would stay where it stands."""
        self._moves += 1
        try:
            await super().perform_seek()
            uncommitted = [tp for tp in self.assignment() if self._is_ours(tp) and not self._read_offset[tp]]
            if uncommitted:
                for tp, earliest in (await self.earliest_offsets(*uncommitted)).items():
                    await self._seek(tp, earliest)
                    self._read_offset[tp] = earliest
        finally:
            self._moves += 1  # what was begun meanwhile was fetched before, too

    def _is_ours(self, tp: TP) -> bool:
        return bool(self.app.topics.acks_enabled_for(tp.topic))

    async def _hand_over(self, message: ConsumerMessage) -> None:
        for channel in self.app.topics._tp_index[message.tp]:  # type: ignore[attr-defined]  # the conductor's index, as its own handlers use it
            message.incref()
            await channel.queue.put(self.app.create_event(None, message.value, None, message))

    def ack(self, message: Any) -> bool:
        """Takes the chunk as done, unless the partitions have been handed out anew since it was read."""
        chunk = message.value
        if not isinstance(chunk, Chunk):
            return super().ack(message)
        message.acked = True
        self._unacked_messages.discard(message)
        if message.generation_id != self.app.consumer_generation_id:
            return False
        self._chain.ack(chunk.spans)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._moves += 1
        self._chain.forget(revoked)
        for tp in revoked:
            del self._sent_back[tp]
        await super().on_partitions_revoked(revoked)

    def _filter_tps_with_pending_acks(self, topics: Iterable[Any] | None = None) -> Iterator[TP]:
        return (tp for tp in self._chain if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._chain.end(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        is_committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not is_committed:  # Faust notes it as committed all the same, and would not try again (issue 316)
            self._committed_offset.update(before)
        return is_committed

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust looks for an event of each partition and sees one of each chunk. Our watchdog asks for lag."""


class ChunkTransport(Transport):
    """Faust's, with the consumer above. Chunks have `chunk_size` records; behind half a one fetching pauses."""

    Consumer = ChunkConsumer

    def __init__(self, app: faust.App, chunk_size: int, pause_s: float) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.chunk_size = chunk_size
        self.pause_s = pause_s


def cut(fetched: Mapping[TP, Sequence[Any]], size: int) -> Iterator[dict[TP, Sequence[Any]]]:
    """Chunks of about `size` records, whole partitions wherever that goes: those can be worked on side by side."""
    chunk: dict[TP, Sequence[Any]] = {}
    room = size
    for tp, records in fetched.items():
        if len(records) > room and room < size / 2:
            yield chunk
            chunk, room = {}, size
        for at in range(0, len(records), size):
            chunk[tp] = records[at : at + size]
            room -= len(chunk[tp])
            if room <= 0:
                yield chunk
                chunk, room = {}, size
    if chunk:
        yield chunk


_WAIT_MS = 100
"""Ten small questions a second and broker from a worker that has nothing to do."""


class FetchingThread(driver.AIOKafkaConsumerThread):
    """Faust's thread, whose consumer does not wait that long."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _WAIT_MS
        return consumer
