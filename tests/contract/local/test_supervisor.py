"""The supervisor restarts and reports dead children; however it ends, no process is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.stack import process as process_module
from local.stack.ports import free_port
from local.stack.process import ChildProcess, ServerNotReady, end_leftovers
from local.stack.supervisor import Child, Supervisor
from tests.paths import ROOT
from tests.waiting import wait_until

_SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
_STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
# A small `billing up`: a supervisor in its own process that prints its child's pid.
_OWNER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits an ignored SIGINT
from local.stack.supervisor import Child, Supervisor
with Supervisor(Path(sys.argv[1]), print) as supervisor:
    child = supervisor.run(Child("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"]))
    print(child.pid, flush=True)
    time.sleep(600)
"""


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def lines() -> list[str]:
    """The lines that the supervisor printed."""
    return []


@pytest.fixture
def supervisor(tmp_path: Path, lines: list[str]) -> Iterator[Supervisor]:
    """A supervisor that stops everything at the end of the test."""
    with Supervisor(tmp_path, lines.append) as running:
        yield running


def test_a_child_that_dies_comes_back(supervisor: Supervisor, lines: list[str]) -> None:
    """A new process replaces it after a pause, and one line reports how the old one ended."""
    process = supervisor.run(Child("sleeper", _SLEEPER))
    first = process.pid
    process.kill()
    wait_until(lambda: process.pid not in (None, first))
    assert lines == ["sleeper was ended by SIGKILL; starting it again in 0.5 s"]


def test_pauses_double(supervisor: Supervisor, lines: list[str]) -> None:
    """A child that always fails is not restarted in a tight loop."""
    supervisor.run(Child("broken", [sys.executable, "-c", "raise SystemExit(3)"]))
    wait_until(lambda: len(lines) == 3)
    assert lines == [f"broken ended with exit code 3; starting it again in {pause} s" for pause in ("0.5", "1", "2")]


def test_a_stopped_child_stays_down(supervisor: Supervisor, lines: list[str]) -> None:
    """A deliberate stop is not a death: the child stays down until it is started again."""
    process = supervisor.run(Child("sleeper", _SLEEPER))
    process.stop()
    time_of_one_restart = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > time_of_one_restart)
    assert (process.pid, lines) == (None, [])
    process.spawn()
    assert process.pid is not None


def test_stop_kills_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    """SIGTERM first; after the grace, SIGKILL."""
    process = ChildProcess("stubborn", _STUBBORN, state_dir=tmp_path)
    process.spawn()
    process.wait_until(lambda: "up" in process.tail(), timeout=30)
    process.stop(grace=0.3)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_owner(tmp_path: Path, number: signal.Signals) -> None:
    """Even if the supervisor is killed and cannot clean up, its children end."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        assert not _is_gone(child)
        owner.send_signal(number)
        wait_until(lambda: _is_gone(child))


def test_leftovers_are_found_and_strangers_are_spared(tmp_path: Path) -> None:
    """A pid file counts only if the process has that start time and this STATE_DIR in its environment."""
    ours = ChildProcess("ours", _SLEEPER, state_dir=tmp_path)
    ours.spawn()
    other = ChildProcess("other", _SLEEPER, state_dir=tmp_path / "elsewhere")
    other.spawn()
    ours_pid = ours.pid
    assert ours_pid is not None
    (tmp_path / "run" / "stranger.pid").write_text((tmp_path / "elsewhere" / "run" / "other.pid").read_text())
    assert end_leftovers(tmp_path) == ["ours"]
    assert _is_gone(ours_pid)
    assert other.pid is not None
    for process in (ours, other):
        process.stop()


def test_a_taken_port_is_reported_before_anything_starts(supervisor: Supervisor) -> None:
    """Otherwise another program's answer could be taken for our process's."""
    port = free_port()
    listen = f"import socket,time; s=socket.create_server(('127.0.0.1',{port})); print('up',flush=True); time.sleep(99)"
    holder = supervisor.run(Child("holder", [sys.executable, "-c", listen]))
    holder.wait_until(lambda: "up" in holder.tail(), timeout=30)
    with pytest.raises(ServerNotReady, match=f"127.0.0.1:{port} is in use"):
        supervisor.run(Child("second", _SLEEPER, port=port))


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit a log is moved to another name, and the child continues in the same file."""
    monkeypatch.setattr(process_module, "LOG_LIMIT", 1000)
    talker = ChildProcess(
        "talker",
        [sys.executable, "-c", "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.001)"],
        state_dir=tmp_path,
    )
    talker.spawn()
    wait_until(lambda: talker.log.stat().st_size > 1000)
    talker.trim_log()
    wait_until(lambda: talker.log.stat().st_size > 0)
    assert talker.log.with_suffix(".log.1").stat().st_size > 1000
    assert b"\0" not in talker.log.read_bytes()
    talker.stop()
