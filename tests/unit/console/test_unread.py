"""Which unread events count, and how often the log is read for them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from console.unread import BEHIND_S, UnreadEvents, spans_of
from eventlog.unread import NONE, Unread
from schemas.errors import LogUnavailable
from sinks.postgres.lists.overview import waits_for
from tests.kits.consolekit import console_settings
from tests.waiting import eventually

NOWHERE = SecretStr("postgresql://none@127.0.0.1:1/none")


def test_only_partitions_that_are_behind_count() -> None:
    """What a worker that keeps up has not read yet is no failure. A time that is not known may be long."""
    behind = [(0, 5, 5, 0.0), (1, 5, 9, BEHIND_S - 1), (2, 5, 9, BEHIND_S), (3, 0, 2, None)]
    assert spans_of(behind) == {2: (5, 9), 3: (0, 2)}


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((1, 0, 0), "1 dead letter"),
        ((0, 2, 1), "2 waiting events and 1 unread event"),
        ((3, 1, 1041), "3 dead letters, 1 waiting event and 1,041 unread events"),
    ],
)
def test_what_money_waits_for_is_a_list(counts: tuple[int, int, int], text: str) -> None:
    assert waits_for(dict(zip(("letters", "waiting", "unread"), counts, strict=True))) == text


async def test_the_log_is_read_once_for_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not while nothing is behind. A page shows the last reading while the next one runs, and its failure."""
    reads, go_on, fails = 0, threading.Event(), False

    def read(*_: Any) -> Unread:
        nonlocal reads
        reads += 1
        assert go_on.wait(30)
        if fails:
            raise LogUnavailable("away")
        return Unread({("", "cus_1"): reads})

    monkeypatch.setattr("console.unread.unread_events", read)
    unread = UnreadEvents(console_settings(NOWHERE, "127.0.0.1:1", "t", tmp_path))
    spans = {0: (1, 2)}
    assert await unread.read({}) == NONE
    assert reads == 0
    go_on.set()
    assert (await unread.read(spans)).events == {("", "cus_1"): 1}
    assert (await unread.read(spans)).events == {("", "cus_1"): 1}
    assert reads == 1
    go_on.clear()
    monkeypatch.setattr("console.unread._FRESH_S", 0.0)
    assert (await unread.read(spans)).events == {("", "cus_1"): 1}, "the next reading runs"
    go_on.set()

    async def is_new() -> bool:
        return (await unread.read(spans)).events != {("", "cus_1"): 1}

    await eventually(is_new, "the next reading")
    await unread.close()
    fails = True
    monkeypatch.setattr("console.unread._SHOWN_S", 0.0)
    with pytest.raises(LogUnavailable):
        await unread.read(spans)
    assert await unread.read({}) == NONE
    await unread.close()
