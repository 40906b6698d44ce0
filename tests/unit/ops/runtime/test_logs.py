"""Log lines on stderr: none is lost, the order is kept, and one loop iteration makes one write."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys

import pytest

from ops.runtime.logs import LogLines
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
    """Records the text of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


@pytest.fixture
def stderr() -> _Recorder:
    return _Recorder()


def test_one_loop_iteration_is_one_write(stderr: _Recorder) -> None:
    lines = LogLines(stderr)

    async def two_iterations() -> None:
        lines.info("1")
        lines.info("2")
        await asyncio.sleep(0)
        lines.info("3")
        await asyncio.sleep(0)

    asyncio.run(two_iterations())
    assert stderr.writes == ["1\n2\n", "3\n"]


def test_a_warning_is_written_at_once_after_earlier_lines(stderr: _Recorder) -> None:
    lines = LogLines(stderr)

    async def one_iteration() -> None:
        lines.info("1")
        lines.warning("2")
        assert stderr.writes == ["1\n2\n"]

    asyncio.run(one_iteration())


def test_without_a_loop_each_line_is_written_at_once(stderr: _Recorder) -> None:
    lines = LogLines(stderr)
    lines.info("1")
    lines.info("2")
    assert stderr.writes == ["1\n", "2\n"]


def test_a_stopped_loop_loses_no_line(stderr: _Recorder) -> None:
    """The last iteration may never run, so the next line or the end of the process writes all lines."""
    lines = LogLines(stderr)

    async def ends() -> None:
        lines.info("1")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ends())
    loop.close()
    lines.info("2")
    assert "".join(stderr.writes) == "1\n2\n"


@pytest.mark.parametrize(
    "end", ["pass", "raise RuntimeError('during an iteration')", "log.critical('stuck'); os._exit(70)"]
)
def test_a_process_writes_all_lines_however_it_ends(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TURN.format(end=end)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in logged][:5] == ["turn", "turn", "turn", "library's own", "after"]
    assert [line["number"] for line in logged[:3]] == [0, 1, 2]
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in logged)


def test_lines_go_to_the_stderr_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test has called in this process may have configured logging while stderr was another file."""
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    lines = LogLines()
    first.close()
    monkeypatch.setattr("sys.stderr", second)
    lines.error("a line")
    assert second.getvalue() == "a line\n"
