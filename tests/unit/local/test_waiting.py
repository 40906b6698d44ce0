"""Waiting ends with the condition, with the deadline, or with the process that was to fulfil it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import TooLate, eventually, row_with, wait_until


async def _never() -> bool:
    await asyncio.Event().wait()
    return True


async def test_the_value_of_the_condition_is_returned() -> None:
    answers = iter([0, 0, 7, 0, 7])
    assert wait_until(lambda: next(answers), every_s=0) == 7
    assert await eventually(lambda: next(answers), every_s=0) == 7


async def test_a_deadline_names_what_was_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the last line")
    with pytest.raises(TooLate, match=r"waited 0 s for rain\nthe last line"):
        wait_until(lambda: False, "rain", within_s=0.01, every_s=0, log=log)
    with pytest.raises(TooLate, match=r"waited 0 s for rain\nthe last line"):
        await eventually(_never, "rain", within_s=0.01, log=log)


async def test_a_timeout_of_the_condition_is_not_a_deadline() -> None:
    async def fails() -> bool:
        raise TimeoutError("the database's")

    with pytest.raises(TimeoutError, match="the database's"):
        await eventually(fails)


def test_the_end_of_the_process_ends_the_wait() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        with pytest.raises(TooLate, match="ended with 3 before rain"):
            wait_until(lambda: False, "rain", process=process)
        with pytest.raises(TooLate, match="ended with 3 before rain"):
            asyncio.run(eventually(lambda: False, "rain", process=process))


async def test_a_row_is_returned_once_it_has_the_values() -> None:
    rows = iter([{"status": "queued", "attempts": 0}, {"status": "sent", "attempts": 1}])

    async def read() -> dict[str, object]:
        return next(rows)

    assert await row_with(read, status="sent") == {"status": "sent", "attempts": 1}
