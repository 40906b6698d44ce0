"""The two rules between fetch and agent: what is cut apart stays whole and in order; what is committed has no gap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.chunks import AckedChain, Span, cut


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
