"""The two rules between fetch and agent: what is cut apart stays whole and in order; what is committed has no gap."""

from __future__ import annotations

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
from streams.faust.chunks import AckedChain, Chunk, ChunkConsumer, Span, cut


@dataclass(frozen=True)
class Offset:
    """Stands for a record."""

    partition: int
    offset: int


def tp(partition: int) -> TP:
    return TP("billing.events", partition)


def fetch_of(counts: Mapping[int, int]) -> dict[TP, list[Offset]]:
    return {tp(partition): [Offset(partition, at) for at in range(count)] for partition, count in counts.items()}


FETCHES = st.dictionaries(st.integers(0, 11), st.integers(1, 300), max_size=12)


@given(FETCHES, st.integers(1, 200))
def test_chunks_hold_all_that_was_fetched_each_partition_in_order(counts: dict[int, int], size: int) -> None:
    found: dict[TP, list[Offset]] = defaultdict(list)
    for chunk in cut(fetch_of(counts), size):
        for partition, records in chunk.items():
            found[partition] += records
    assert found == fetch_of(counts)


@given(FETCHES, st.integers(1, 200))
def test_no_chunk_is_empty_or_much_too_large(counts: dict[int, int], size: int) -> None:
    for chunk in cut(fetch_of(counts), size):
        assert 0 < sum(map(len, chunk.values())) < 2 * size


def test_a_partition_is_not_torn_for_a_small_rest() -> None:
    chunks = list(cut(fetch_of({0: 60, 1: 60}), 100))
    assert [[len(records) for records in chunk.values()] for chunk in chunks] == [[60], [60]]


def test_several_small_partitions_share_a_chunk() -> None:
    (chunk,) = cut(fetch_of({0: 10, 1: 20, 2: 30}), 100)
    assert [len(records) for records in chunk.values()] == [10, 20, 30]


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_nothing_behind_an_open_span_is_committed(order: list[int], lost: set[int]) -> None:
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


def test_acked_in_order_all_of_it_may_be_committed() -> None:
    chain = AckedChain()
    for start in range(0, 50, 10):
        chain.begin({tp(0): Span(start, start + 10)})
        chain.ack({tp(0): Span(start, start + 10)})
    assert chain.end(tp(0)) == 50


def test_what_is_read_a_second_time_moves_nothing_back() -> None:
    chain = AckedChain()
    chain.begin({tp(0): Span(0, 30)})
    chain.ack({tp(0): Span(0, 30)})
    chain.ack({tp(0): Span(10, 20)})
    assert chain.end(tp(0)) == 30


def test_a_partition_that_went_and_came_back_begins_anew() -> None:
    chain = AckedChain()
    chain.begin({tp(0): Span(0, 10), tp(1): Span(0, 10)})
    chain.forget({tp(0)})
    assert chain.end(tp(0)) is None
    assert list(chain) == [tp(1)]
    chain.ack({tp(0): Span(0, 10)})  # of the assignment before
    assert chain.end(tp(0)) is None
    chain.begin({tp(0): Span(40, 50)})
    assert chain.end(tp(0)) == 40


class Unconnected(ChunkConsumer):
    """Stands at the log's start in partition 0, of which nothing is committed; what it hands over is kept."""

    chunks: list[Chunk]
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
        """There is no broker to ask."""

    def _is_ours(self, tp: TP) -> bool:
        return tp.topic == "billing.events"

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        return ConsumerMessage(tp.topic, tp.partition, record.offset, 0.0, 0, [], None, None, None, tp=tp)

    async def _hand_over(self, message: ConsumerMessage) -> None:
        chunk: Any = message.value
        self.chunks.append(chunk)
        if self.interrupted:
            await self.perform_seek()


async def consumer_in(folder: Path) -> Unconnected:
    async def nobody(*_: Any) -> None:
        raise AssertionError

    settings = Settings(
        state_dir=folder,
        kafka_bootstrap="127.0.0.1:1",
        database_url=SecretStr("postgresql://127.0.0.1:1/none"),
        config_path=folder / "config.toml",
    )
    consumer = Unconnected(create_app(settings, "test.worker", 1).transport, nobody, nobody, nobody)
    consumer.chunks = []
    await consumer.perform_seek()
    return consumer


async def test_reading_goes_on_behind_what_was_handed_over(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    fetched = fetch_of({0: 30})
    assert await consumer._deliver(fetched) == 30
    assert await consumer._deliver(fetched) == 0, "it was read before"
    assert [chunk.spans for chunk in consumer.chunks] == [{tp(0): Span(0, 30)}]


async def test_what_is_handed_over_amid_a_rebalance_is_read_again(tmp_path: Path) -> None:
    """The rebalance empties the queue behind our back: to stand behind the chunk then would be to lose it."""
    consumer = await consumer_in(tmp_path)
    fetched = fetch_of({0: 30})
    consumer.interrupted = True
    await consumer._deliver(fetched)
    consumer.interrupted = False
    assert await consumer._deliver(fetched) == 30


async def test_records_that_begin_further_on_are_asked_for_again(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    later = {tp(0): fetch_of({0: 30})[tp(0)][10:]}
    assert await consumer._deliver(later) == 0
    consumer._passed_over.clear()
    assert await consumer._deliver(fetch_of({0: 30})) == 30


async def test_records_that_are_gone_are_not_asked_for_for_ever(tmp_path: Path) -> None:
    consumer = await consumer_in(tmp_path)
    later = {tp(0): fetch_of({0: 30})[tp(0)][10:]}
    counts = []
    for _ in range(4):
        consumer._passed_over.clear()
        counts.append(await consumer._deliver(later))
    assert counts == [0, 0, 0, 20]
    assert [chunk.spans for chunk in consumer.chunks] == [{tp(0): Span(0, 30)}]
