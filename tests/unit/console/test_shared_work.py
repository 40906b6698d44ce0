"""Work that several pages share: readings of Kafka, queries of whole tables, and the stream of what is new."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from console.lag import Behind, Lag
from console.live import Live
from console.reads import STALE_S, Reads
from console.reveals import page_of
from schemas.errors import StoreUnavailable
from schemas.timing import utc_now
from tests.kits.consolekit import console_settings

NOWHERE = SecretStr("postgresql://none@127.0.0.1:1/none")


class SlowLag(Lag):
    """Reads as slowly as the test wants, and notes how many threads read at once."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(console_settings(NOWHERE, "127.0.0.1:1", "t", tmp_path))
        self.go_on = threading.Event()
        self.now = self.most = self.reads = 0

    def _read(self) -> list[Behind]:
        self.now += 1
        self.reads += 1
        self.most = max(self.most, self.now)
        self.go_on.wait(30)
        self.now -= 1
        return [Behind(0, 1, 2, 0.0, None)]


async def test_a_reading_whose_page_has_gone_is_not_joined_by_another_thread(tmp_path: Path) -> None:
    lag = SlowLag(tmp_path)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await lag.read()
    lag.go_on.set()
    assert await lag.read() == [Behind(0, 1, 2, 0.0, None)]
    assert (lag.reads, lag.most) == (1, 1)
    await lag.close()


async def test_a_page_shows_the_last_reading_while_the_next_one_is_under_way(tmp_path: Path) -> None:
    lag = SlowLag(tmp_path)
    lag.go_on.set()
    assert len(await lag.data()) == 1
    lag.go_on.clear()
    assert lag._last is not None
    lag._last = (time.monotonic() - 10.0, lag._last[1])
    for _ in range(3):
        async with asyncio.timeout(30):
            assert len(await lag.data()) == 1
    lag._last = (time.monotonic() - 30.0, lag._last[1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lag.data()
    lag.go_on.set()
    await lag.close()
    assert (lag.reads, lag.most) == (2, 1)


def test_the_rate_of_each_partition_is_of_the_last_minutes(tmp_path: Path) -> None:
    lag = SlowLag(tmp_path)
    assert (lag.rates(), lag.per_second()) == ({}, None)
    now = time.monotonic()
    for ago, committed in ((900.0, {0: 0, 1: 0}), (200.0, {0: 100, 1: 0}), (0.0, {0: 500, 1: 10, 2: 7})):
        lag._history.append((now - ago, committed, 0))
    assert lag.rates() == {0: 2.0, 1: 0.05, 2: 0.0}
    assert lag.per_second() == 2.05
    assert lag.eta_s(41) == 20.0


async def test_pages_share_a_query_of_a_whole_table_and_its_failure() -> None:
    reads, asked, all_wait = Reads(NOWHERE), 0, asyncio.Event()

    async def ask(_query: Any) -> int:
        nonlocal asked
        asked += 1
        await all_wait.wait()
        if asked == 1:
            raise StoreUnavailable("too slow")
        return asked

    reads.ask = ask  # type: ignore[assignment,method-assign]  # the query is not what is tested
    query = cast("Any", None)
    pages = [asyncio.create_task(reads.kept("sum", query)) for _ in range(5)]
    asyncio.get_running_loop().call_soon(all_wait.set)  # runs after the first step of each page
    failed = await asyncio.gather(*pages, return_exceptions=True)
    assert {str(error) for error in failed} == {"too slow"}
    assert asked == 1
    reads._kept["sum"].until = 0.0
    assert await asyncio.gather(*(reads.kept("sum", query) for _ in range(5))) == [2] * 5
    assert await reads.kept("another", query) == 3


async def test_a_page_shows_the_last_sum_while_it_is_renewed() -> None:
    """Only the first page ever, and one after a long pause, wait for the sum. A bug is shown by the next page."""
    reads, asked, may_answer, is_asking = Reads(NOWHERE), 0, asyncio.Event(), asyncio.Event()

    async def ask(_query: Any) -> int:
        nonlocal asked
        asked += 1
        is_asking.set()
        await may_answer.wait()
        if asked == 3:
            raise KeyError("a bug")
        return asked

    reads.ask = ask  # type: ignore[assignment,method-assign]  # the query is not what is tested
    query = cast("Any", None)
    may_answer.set()
    assert await reads.kept("sum", query) == 1
    may_answer.clear()
    reads._kept["sum"].until = time.monotonic()
    assert [await reads.kept("sum", query) for _ in range(3)] == [1, 1, 1]
    may_answer.set()
    renewal = reads._kept["sum"].renewal
    assert renewal is not None
    await renewal
    assert (asked, await reads.kept("sum", query)) == (2, 2)
    reads._kept["sum"].until = time.monotonic()
    assert await reads.kept("sum", query) == 2
    renewal = reads._kept["sum"].renewal
    assert renewal is not None
    with capture_logs() as lines:
        await asyncio.wait({renewal})  # its callback, which was added first, has run then
    assert [line["action"] for line in lines] == ["console.bug"]
    assert await reads.kept("sum", query) == 4
    reads._kept["sum"].until = time.monotonic() - STALE_S
    may_answer.clear()
    is_asking.clear()
    waits = asyncio.create_task(reads.kept("sum", query))
    await asyncio.wait_for(is_asking.wait(), 30)
    assert not waits.done()
    may_answer.set()
    assert await waits == 5


async def test_after_an_action_the_next_page_waits_for_a_new_sum() -> None:
    """Also if the action ended while the sum was asked for: it may be without what has changed."""
    reads, asked = Reads(NOWHERE), 0

    async def ask(_query: Any) -> int:
        nonlocal asked
        asked += 1
        if asked == 3:
            reads.expire()
        return asked

    reads.ask = ask  # type: ignore[assignment,method-assign]  # the query is not what is tested
    query = cast("Any", None)
    assert [await reads.kept("sum", query) for _ in range(2)] == [1, 1]
    reads.expire()
    assert await reads.kept("sum", query) == 2
    reads.expire()
    assert [await reads.kept("sum", query) for _ in range(3)] == [3, 4, 4]


async def test_what_changes_while_a_stream_is_written_is_sent_at_once() -> None:
    live = Live(Reads(NOWHERE), utc_now)

    class Page:
        def __init__(self) -> None:
            self.sent: list[bytes] = []

        async def write(self, data: bytes) -> None:
            self.sent.append(data)
            if len(self.sent) == 2:  # the first figures
                live._count += 1
                live._wake()
            if len(self.sent) == 3:
                live.end()

    page = Page()
    await asyncio.wait_for(live._feed(cast("web.StreamResponse", page)), 30)
    assert b'"new":1' in page.sent[2]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("/events", "/events?type=invoice.*", False),
        ("/events?type=a&outcome=dead", "/events?outcome=dead&type=a", True),
        ("/events?type=&outcome=dead", "/events?outcome=dead", True),
        ("/search?q=jane%40example.com", "/search?q=jane@example.com", True),
        ("/mails/receipt%3A%3Ain_1", "/mails/receipt::in_1", True),
        ("/events?before=a", "/events?before=b", False),
    ],
)
def test_a_reveal_is_for_one_search(one: str, other: str, is_same: bool) -> None:
    assert (page_of(one) == page_of(other)) is is_same
