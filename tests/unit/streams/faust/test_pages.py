"""Pages of settled ids: few whatever the traffic, the same after a restart, forgotten in order of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.faust.id_set import IdSet
from streams.faust.pages import (
    PAGE_IDS,
    PAGE_SPAN_S,
    WRITE_AFTER_S,
    SettledPages,
    Write,
    decode_page,
    encode_page,
    partition_of,
)

HOUR = 3600.0
HORIZON_S = 72 * HOUR
START = 1_800_000_000.0


@dataclass
class Changelog:
    """The records that a worker wrote, and what a compacted topic returns of them."""

    writes: list[Write] = field(default_factory=list)

    def take(self, writes: Iterable[Write]) -> None:
        self.writes += writes

    @property
    def compacted(self) -> dict[str, bytes]:
        latest = {key: page for _, key, page in self.writes}
        return {key: page for key, page in latest.items() if page is not None}

    def restart(self, now: float) -> SettledPages:
        pages = SettledPages(horizon_s=HORIZON_S)
        for key, page in self.compacted.items():
            pages.recover(partition_of(key), key, page)
        pages.reopen(now)
        return pages


def ids(first: int, number: int) -> list[str]:
    return [f"evt_1{n:023d}" for n in range(first, first + number)]


def traffic(pages: SettledPages, log: Changelog, *, every_s: float, number: int, partitions: int = 4) -> float:
    """Events one by one, each in the next partition, as at a rate at which no batches form. Returns the time."""
    now = START
    for n in range(number):
        now = START + n * every_s
        log.take(pages.add(n % partitions, n, ids(n, 1), now))
        log.take(pages.due(now))
    return now


@pytest.mark.parametrize("every_s", [10.0, 1.0, 0.1, 0.01])
def test_the_number_of_pages_is_bounded_whatever_the_rate(every_s: float) -> None:
    """At most one page for each partition and hour, and one for each 512 ids."""
    pages, log, number = SettledPages(horizon_s=HORIZON_S), Changelog(), 8_000
    now = traffic(pages, log, every_s=every_s, number=number)
    hours = (now - START) / PAGE_SPAN_S
    assert len(log.compacted) <= 4 * (hours + 1) + number / PAGE_IDS
    assert len(pages) == number


def test_a_page_is_written_every_half_minute_at_most_or_when_it_is_full() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    now = traffic(pages, log, every_s=0.01, number=8_000)
    assert len(log.writes) <= 8_000 / PAGE_IDS + 4 * ((now - START) / WRITE_AFTER_S + 1)


def test_all_ids_are_known_after_a_restart_but_those_of_the_last_half_minute() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    now = traffic(pages, log, every_s=1.0, number=4_000)
    after_kill = log.restart(now)
    lost = [n for n in range(4_000) if not after_kill.knows(n % 4, ids(n, 1)[0])]
    assert all(n >= 4_000 - WRITE_AFTER_S - 4 for n in lost)
    assert lost
    log.take(pages.due(now, after_s=0))  # an orderly stop
    assert len(log.restart(now)) == 4_000


def test_restarts_do_not_make_more_pages() -> None:
    """A worker that is restarted every minute continues the page that the previous one had open."""
    log, now = Changelog(), START
    pages = SettledPages(horizon_s=HORIZON_S)
    for n in range(50):
        now += 60
        log.take(pages.add(0, n, ids(n, 1), now))
        log.take(pages.due(now, after_s=0))
        pages = log.restart(now)
    assert len(log.compacted) == 1
    assert len(pages) == 50


def test_an_id_that_is_settled_again_takes_no_more_room() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    for n in range(3 * PAGE_IDS):
        log.take(pages.add(0, n, ids(0, 1), START + n))
    log.take(pages.due(START + 3 * PAGE_IDS))
    assert log.compacted == {"0:0": encode_page(int(START), [ids(0, 1)[0].encode()])}


def test_the_same_offset_after_a_crash_keeps_the_ids_of_both_pages() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    log.take(pages.add(0, 7, ids(0, PAGE_IDS), START))
    log.take(pages.add(0, 7, ids(PAGE_IDS, PAGE_IDS), START))
    assert len(log.compacted) == 2
    assert len(log.restart(START)) == 2 * PAGE_IDS


def test_ids_are_forgotten_after_the_horizon_and_not_before() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    log.take(pages.add(0, 0, ids(0, 1), START))
    log.take(pages.add(0, 1, ids(1, 1), START + PAGE_SPAN_S - 1))
    log.take(pages.due(START + PAGE_SPAN_S))
    log.take(pages.expire(START + HORIZON_S + PAGE_SPAN_S - 1))
    assert len(pages) == 2
    log.take(pages.expire(START + HORIZON_S + PAGE_SPAN_S + 1))
    assert len(pages) == pages.pages == 0
    assert log.compacted == {}


def test_one_call_forgets_a_bounded_number_and_does_not_touch_the_young_ones() -> None:
    """A million pages of one id, as earlier versions wrote them, are forgotten in many short steps."""
    pages = SettledPages(horizon_s=HORIZON_S)
    for n in range(3_000):
        opened_at = int(START if n < 2_000 else START + HORIZON_S)
        pages.recover(0, f"0:{n}", encode_page(opened_at, [f"evt_{n}".encode()]))
    now = START + HORIZON_S + PAGE_SPAN_S + 1
    removed = [len(list(pages.expire(now))) for _ in range(12)]
    assert max(removed) == 200
    assert sum(removed) == 2_000
    assert len(pages) == 1_000


def test_a_page_of_an_earlier_version_is_read() -> None:
    pages = SettledPages(horizon_s=HORIZON_S)
    assert pages.recover(3, "3:120", b"1800000000\nevt_1\nevt_2") == 2
    assert pages.knows(3, "evt_1")
    assert pages.knows(3, "evt_2")
    assert not pages.knows(2, "evt_1")
    assert not pages.knows(3, "1800000000")
    assert not pages.knows(3, "evt_")


def test_a_partition_that_leaves_is_forgotten_here_and_a_dropped_one_on_the_changelog_too() -> None:
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    for partition in (0, 1):
        log.take(pages.add(partition, 0, ids(0, PAGE_IDS), START))
        log.take(pages.add(partition, 9, ids(PAGE_IDS, 1), START))
    assert pages.leave(0) == {"0:0", "0:9"}
    assert not pages.knows(0, ids(0, 1)[0])
    log.take(pages.drop(1))
    assert set(log.compacted) == {"0:0"}
    assert pages.partitions == set()


def test_an_id_with_a_line_feed_is_never_remembered() -> None:
    """It would be read as two ids, and an event with the second id would be taken for a duplicate."""
    pages, log = SettledPages(horizon_s=HORIZON_S), Changelog()
    log.take(pages.add(0, 0, ["evt_1\nevt_2"], START))
    assert len(pages) == 0
    assert log.writes == []


names = st.binary(max_size=4).filter(lambda name: b"\n" not in name)


@given(st.lists(st.tuples(st.booleans(), names), max_size=60))
def test_an_id_set_behaves_as_a_set(steps: list[tuple[bool, bytes]]) -> None:
    found, expected = IdSet(), set[bytes]()
    for adds, name in steps:
        if adds:
            assert found.add(name) == (name not in expected)
            expected.add(name)
        else:
            found.discard(name)
            expected.discard(name)
        assert len(found) == len(expected)
    assert all((name in found) == (name in expected) for _, name in steps)


@given(st.lists(names), st.integers(0, 2**40))
def test_a_page_is_read_as_it_was_written(written: list[bytes], opened_at: int) -> None:
    assert decode_page(encode_page(opened_at, written)) == (opened_at, written)


@given(st.data())
def test_histories_of_batches_restarts_and_moves_never_invent_an_id(data: st.DataObject) -> None:
    """Whatever happens, an id is known only if it was settled; after an orderly stop all settled ids are known."""
    log, now, fresh = Changelog(), START, count()
    pages, settled = SettledPages(horizon_s=HORIZON_S), set[str]()
    for step in data.draw(st.lists(st.sampled_from(["batch", "tick", "stop", "kill"]), max_size=20)):
        now += data.draw(st.sampled_from([1, 20, 40, 4_000]))
        if step == "batch":
            batch = ids(next(fresh) * 1000, data.draw(st.sampled_from([1, 3, 600])))
            settled.update(batch)
            log.take(pages.add(0, len(settled), batch, now))
        elif step == "tick":
            log.take(pages.due(now))
        else:
            if step == "stop":
                log.take(pages.due(now, after_s=0))
            before = len(pages)
            pages = log.restart(now)
            assert len(pages) == before or step == "kill"
            settled &= {name.decode() for page in log.compacted.values() for name in decode_page(page)[1]}
        assert len(pages) == len(settled)
        assert all(pages.knows(0, name) for name in settled)
