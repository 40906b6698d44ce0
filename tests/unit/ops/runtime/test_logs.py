"""Lines on stderr: none lost, in their order, and one write for what one turn of a loop says."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys

import pytest

from ops.runtime.logs import Lines
from tests.paths import ROOT

TURN = """
import asyncio, logging, os, structlog
from ops.runtime.logs import configure_logging

configure_logging()
log = structlog.get_logger()

async def main():
    for number in range(3):
        log.info("turn", number=number)
    logging.getLogger("lib").warning("library's %s", "own")
    log.info("after", where="turn")
    {end}

asyncio.run(main())
log.info("no loop")
"""


class _Recorder(io.StringIO):
    """Keeps what each write brought."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


@pytest.fixture
def stderr() -> _Recorder:
    return _Recorder()


def test_a_turn_of_the_loop_is_one_write(stderr: _Recorder) -> None:
    lines = Lines(stderr)

    async def two_turns() -> None:
        lines.info("1")
        lines.info("2")
        await asyncio.sleep(0)
        lines.info("3")
        await asyncio.sleep(0)

    asyncio.run(two_turns())
    assert stderr.writes == ["1\n2\n", "3\n"]


def test_a_warning_waits_for_nothing_and_follows_what_was_said_before(stderr: _Recorder) -> None:
    lines = Lines(stderr)

    async def one_turn() -> None:
        lines.info("1")
        lines.warning("2")
        assert stderr.writes == ["1\n2\n"]

    asyncio.run(one_turn())


def test_without_a_loop_each_line_is_written_at_once(stderr: _Recorder) -> None:
    lines = Lines(stderr)
    lines.info("1")
    lines.info("2")
    assert stderr.writes == ["1\n", "2\n"]


def test_a_loop_that_ended_keeps_no_line_back(stderr: _Recorder) -> None:
    """Its last turn may never come; the next line, or the process's end, writes them all."""
    lines = Lines(stderr)

    async def ends() -> None:
        lines.info("1")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ends())
    loop.close()
    lines.info("2")
    assert "".join(stderr.writes) == "1\n2\n"


@pytest.mark.parametrize("end", ["pass", "raise RuntimeError('amid a turn')", "log.critical('stuck'); os._exit(70)"])
def test_a_process_says_all_it_said_however_it_ends(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TURN.format(end=end)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    said = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in said][:5] == ["turn", "turn", "turn", "library's own", "after"]
    assert [line["number"] for line in said[:3]] == [0, 1, 2]
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in said)
