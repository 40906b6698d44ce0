"""Chunks between fetch and agent: they contain all records in order, and commits leave no gap."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st
from mode import Service
from pydantic import SecretStr

from schemas.settings import Settings
from streams.faust.app import create_app
from streams.faust.chunks import ChunkConsumer, FetchingThread
from streams.faust.spans import AckedChain, Chunk, Span, cut


@dataclass(frozen=True)
class Offset:
    """A minimal record."""

    partition: int
    offset: int


def tp(partition: int) -> TP:
    return TP("billing.events", partition)


def fetch_of(counts: Mapping[int, int]) -> dict[TP, list[Offset]]:
    return {tp(partition): [Offset(partition, at) for at in range(count)] for partition, count in counts.items()}


FETCHES = st.dictionaries(st.integers(0, 11), st.integers(1, 300), max_size=12)


@given(FETCHES, st.integers(1, 200))
def test_chunks_contain_all_fetched_records_in_partition_order(counts: dict[int, int], size: int) -> None:
    found: dict[TP, list[Offset]] = defaultdict(list)
    for chunk in cut(fetch_of(counts), size):
        for partition, records in chunk.items():
            found[partition] += records
    assert found == fetch_of(counts)


@given(FETCHES, st.integers(1, 200))
def test_no_chunk_is_empty_or_far_over_its_size(counts: dict[int, int], size: int) -> None:
    for chunk in cut(fetch_of(counts), size):
        assert 0 < sum(map(len, chunk.values())) < 2 * size


def test_a_partition_is_not_split_for_a_small_rest() -> None:
    chunks = list(cut(fetch_of({0: 60, 1: 60}), 100))
    assert [[len(records) for records in chunk.values()] for chunk in chunks] == [[60], [60]]


def test_several_small_partitions_share_a_chunk() -> None:
    (chunk,) = cut(fetch_of({0: 10, 1: 20, 2: 30}), 100)
    assert [len(records) for records in chunk.values()] == [10, 20, 30]


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_nothing_after_an_open_span_is_committed(order: list[int], lost: set[int]) -> None:
    chain, spans = AckedChain(), [Span(10 * number, 10 * number + 10) for number in range(8)]
    for span in spans:
        chain.begin({tp(0): span})
    acked: set[int] = set()
    for number in order:
        if number in lost:
            continue
        chain.ack({tp(0): spans[number]})
        acked.add(number)
        end = chain.end(tp(0))
        assert end is not None
        assert all(spans.index(span) in acked for span in spans if span.end <= end)


def test_after_acks_in_order_everything_can_be_committed() -> None:
    chain = AckedChain()
    for start in range(0, 50, 10):
        chain.begin({tp(0): Span(start, start + 10)})
        chain.ack({tp(0): Span(start, start + 10)})
    assert chain.end(tp(0)) == 50


def test_a_second_read_moves_no_offset_back() -> None:
    chain = AckedChain()
    chain.begin({tp(0): Span(0, 30)})
    chain.ack({tp(0): Span(0, 30)})
    chain.ack({tp(0): Span(10, 20)})
    assert chain.end(tp(0)) == 30


def test_a_partition_assigned_again_starts_fresh() -> None:
    chain = AckedChain()
    chain.begin({tp(0): Span(0, 10), tp(1): Span(0, 10)})
    chain.forget({tp(0)})
    assert chain.end(tp(0)) is None
    assert list(chain) == [tp(1)]
    chain.ack({tp(0): Span(0, 10)})  # an ack from the previous assignment
    assert chain.end(tp(0)) is None
    chain.begin({tp(0): Span(40, 50)})
    assert chain.end(tp(0)) == 40


class Unconnected(ChunkConsumer):
    """A consumer without a broker: it starts at offset 0 of partition 0 and records the delivered chunks."""

    chunks: list[Chunk]
    handed_over: list[ConsumerMessage]
    interrupted = False

    def _new_consumer_thread(self) -> Any:
        return Service()

    def assignment(self) -> set[TP]:
        return {tp(0)}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {tp(0): 0}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, 0)

    async def _seek(self, partition: TP, offset: int) -> None:
        """Does nothing: there is no broker."""

    def _is_ours(self, tp: TP) -> bool:
        return tp.topic == "billing.events"

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        message = ConsumerMessage(tp.topic, tp.partition, record.offset, 0.0, 0, [], None, None, None, tp=tp)
        message.generation_id = self.app.consumer_generation_id
        return message

    async def _hand_over(self, message: ConsumerMessage) -> None:
        chunk: Any = message.value
        self.chunks.append(chunk)
        self.handed_over.append(message)
        if self.interrupted:
            await self.perform_seek()


async def consumer_in(folder: Path, kind: type[Unconnected] = Unconnected) -> Unconnected:
    async def no_callback(*_: Any) -> None:
        """Faust's part of a rebalance."""

    settings = Settings(
        state_dir=folder,
        kafka_bootstrap="127.0.0.1:1",
        database_url=SecretStr("postgresql://127.0.0.1:1/none"),
        config_path=folder / "config.toml",
    )
    consumer = kind(create_app(settings, "test.worker", 1).transport, no_callback, no_callback, no_callback)
    consumer.chunks, consumer.handed_over = [], []
    await consumer.perform_seek()
    return consumer


async def test_reading_continues_after_the_delivered_records(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    fetched = fetch_of({0: 30})
    assert await consumer._deliver(fetched) == 30
    assert await consumer._deliver(fetched) == 0, "the records were read before"
    assert [chunk.spans for chunk in consumer.chunks] == [{tp(0): Span(0, 30)}]


async def test_records_delivered_during_a_rebalance_are_read_again(tmp_path: Path) -> None:
    """A rebalance empties the queue, so moving the position past the chunk would lose its records."""
    consumer = await consumer_in(tmp_path)
    fetched = fetch_of({0: 30})
    consumer.interrupted = True
    await consumer._deliver(fetched)
    consumer.interrupted = False
    assert await consumer._deliver(fetched) == 30


async def test_a_gap_before_the_fetched_records_is_fetched_again(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    later = {tp(0): fetch_of({0: 30})[tp(0)][10:]}
    assert await consumer._deliver(later) == 0
    consumer._passed_over.clear()
    assert await consumer._deliver(fetch_of({0: 30})) == 30


async def test_deleted_records_are_not_fetched_without_end(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    later = {tp(0): fetch_of({0: 30})[tp(0)][10:]}
    counts = []
    for _ in range(4):
        consumer._passed_over.clear()
        counts.append(await consumer._deliver(later))
    assert counts == [0, 0, 0, 20]
    assert [chunk.spans for chunk in consumer.chunks] == [{tp(0): Span(0, 30)}]


async def test_a_read_position_that_moves_during_a_seek_is_not_taken_for_a_commit(tmp_path: Path) -> None:
    """The database is compared with what the group has committed; more would look like a restored database."""
    asked: list[dict[int, int | None]] = []

    class Moving(Unconnected):
        async def seek_to_committed(self) -> Mapping[TP, int]:
            return {tp(0): 7}

        async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
            self._read_offset.update(dict.fromkeys(partitions, 50))
            return dict.fromkeys(partitions, 60)

    async def resume(_: str, committed: Mapping[int, int | None], *__: Mapping[int, int]) -> Mapping[int, int]:
        asked.append(dict(committed))
        return {}

    consumer = await consumer_in(tmp_path, Moving)
    consumer.transport.resume = resume
    await consumer.perform_seek()
    assert asked == [{0: 7}]


async def test_nothing_is_delivered_while_the_position_is_sought(tmp_path: Path) -> None:
    """Faust seeks at the end of a recovery while the fetcher runs. Its records are from before the seek."""
    during: list[int] = []
    sought: list[tuple[int, int]] = []

    class Fetching(Unconnected):
        async def _seek(self, partition: TP, offset: int) -> None:
            if not self._seeking:
                sought.append((partition.partition, offset))

        async def _wait_next_records(self, *_: Any, **__: Any) -> Any:
            return fetch_of({0: 30}), None

        async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
            if self._seeking:
                during.append(await self._deliver_next())
            return dict.fromkeys(partitions, 0)

    consumer = await consumer_in(tmp_path, Fetching)
    consumer.flow_active = True
    assert (during, consumer.chunks) == ([0], [])
    assert await consumer._deliver_next() == 30
    assert sought == [(0, 0)], "the broker's client has passed the records: it has to go back for them"


async def test_changelog_records_that_a_stopped_flow_met_are_read_again(tmp_path: Path) -> None:
    """A fetch of before a rebalance took them after Faust had sought them; the recovery waits for them."""
    changelog = TP("billing.worker-seen-changelog", 7)
    sought: list[tuple[TP, int]] = []

    class Fetching(Unconnected):
        def assignment(self) -> set[TP]:
            return {tp(0), changelog}

        async def _seek(self, partition: TP, offset: int) -> None:
            if partition == changelog:
                sought.append((partition, offset))

        async def _wait_next_records(self, *_: Any, **__: Any) -> Any:
            return {} if self.flow_active else {changelog: [Offset(7, 3)]}, None

    consumer = await consumer_in(tmp_path, Fetching)
    recovered: Any = consumer.app.tables
    recovered.recovery.active_offsets[changelog] = -1
    consumer.flow_active = False
    await consumer._deliver_next()
    assert sought == [], "while the flow is stopped, Faust may seek elsewhere"
    consumer.flow_active = True
    await consumer._deliver_next()
    assert sought == [(changelog, 0)]
    await consumer._deliver_next()
    assert len(sought) == 1


async def test_missed_changelog_records_are_sought_before_the_next_fetch(tmp_path: Path) -> None:
    """After that fetch the recovery would have later records, and drop the missed ones as known."""
    changelog = TP("billing.worker-seen-changelog", 7)
    steps: list[object] = []

    class Fetching(Unconnected):
        async def _seek(self, partition: TP, offset: int) -> None:
            steps.append((partition.partition, offset))

        async def _wait_next_records(self, *_: Any, **__: Any) -> Any:
            steps.append("fetch")
            self._stopped.set()
            return {}, None

    consumer = await consumer_in(tmp_path, Fetching)
    steps.clear()
    recovered: Any = consumer.app.tables
    recovered.recovery.active_offsets[changelog] = 4
    consumer._missed.add(changelog)
    consumer.stop_flow()
    draining = asyncio.create_task(consumer._drain_messages(Service()))
    await asyncio.sleep(0)
    assert steps == [], "the flow is stopped"
    consumer.resume_flow()
    await asyncio.wait_for(draining, 30)
    assert steps == [(7, 5), "fetch"]


async def test_a_chunk_between_revocation_and_assignment_blocks_no_later_commit(tmp_path: Path) -> None:
    """Its ack is of the previous generation. The partition may come back later, with another worker's commits."""
    consumer = await consumer_in(tmp_path)
    await consumer._deliver(fetch_of({0: 30}))
    await consumer.on_partitions_assigned({tp(0)}, 2)
    assert list(consumer._chain) == []
    spans = {tp(0): Span(90, 100)}
    consumer._chain.begin(spans)
    consumer._chain.ack(spans)
    assert consumer._new_offset(tp(0)) == 100


async def test_a_seek_of_a_revoked_partition_does_nothing() -> None:
    """aiokafka would raise, and the error would end the worker."""
    sought: list[tuple[TP, int]] = []

    class Client:
        def assignment(self) -> set[TP]:
            return {tp(0)}

        def seek(self, partition: TP, offset: int) -> None:
            sought.append((partition, offset))

    thread: Any = object.__new__(FetchingThread)
    thread._consumer = Client()
    for partition in (0, 1):
        await thread.seek_if_assigned(tp(partition), 5)
    assert sought == [(tp(0), 5)]


class Waking(Unconnected):
    """Sleeps no time, and notes for how long it would have slept."""

    slept: list[float]

    async def sleep(self, n: Any, *_: Any, **__: Any) -> None:
        self.slept.append(n)


async def test_a_pause_ends_with_the_chunks_in_flight(tmp_path: Path) -> None:
    """A minute is never over in this test: only the ack can end the pause."""
    consumer = await consumer_in(tmp_path, Waking)
    assert isinstance(consumer, Waking)
    consumer.slept, consumer.transport.pause_s = [], 60.0
    await consumer._pause()
    assert consumer.slept == [60.0 * consumer.transport.least_pause], "nothing in flight"
    messages = []
    for start in (0, 30):
        await consumer._deliver({tp(0): [Offset(0, start + at) for at in range(30)]})
        messages.append(consumer.handed_over[-1])
    pausing = asyncio.create_task(consumer._pause())
    for message in messages:
        await asyncio.sleep(0)
        assert not pausing.done(), "chunks are in flight"
        consumer.ack(message)
    await asyncio.wait_for(pausing, 30)


async def test_a_pause_is_bounded_and_chunks_lost_in_a_rebalance_do_not_prolong_the_next_ones(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path, Waking)
    assert isinstance(consumer, Waking)
    consumer.slept, consumer.transport.pause_s = [], 0.01
    await consumer._deliver(fetch_of({0: 30}))
    await asyncio.wait_for(consumer._pause(), 30)
    consumer.transport.pause_s = 60.0
    await consumer.on_partitions_assigned({tp(0)}, 2)
    await asyncio.wait_for(consumer._pause(), 30)


async def test_a_chunk_that_was_not_handed_over_prolongs_no_pause(tmp_path: Path) -> None:
    """The queue was full when the flow was suspended."""

    class Full(Waking):
        async def _hand_over(self, message: ConsumerMessage) -> None:
            self.stop_flow()
            await asyncio.Event().wait()
            await super()._hand_over(message)

    consumer = await consumer_in(tmp_path, Full)
    assert isinstance(consumer, Full)
    consumer.slept, consumer.transport.pause_s = [], 60.0
    await asyncio.wait_for(consumer._deliver(fetch_of({0: 30})), 30)
    await asyncio.wait_for(consumer._pause(), 30)
    assert consumer.slept == [60.0 * consumer.transport.least_pause]
