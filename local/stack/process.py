"""Beside the flow: one child process that cannot outlive us, with a bounded log, found again if it was left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from local.stack import launch
from local.stack.ports import is_free

LOG_LIMIT = 20 * 1024 * 1024
"""Bytes of one log file; one older file of that size is kept beside it."""

# The kernel's death signal fires when the *thread* that forked ends, so every child is forked by this one, which lives
# as long as the process does.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class ServerNotReady(Exception):
    """An embedded server ended, or gave no sign of life in time; the message ends with the tail of its log."""


class Process:
    """A child in a session of its own, with `STATE_DIR/logs/NAME.log` and `STATE_DIR/run/NAME.pid`.

    `wanted` is what its owner asked for last (spawn or stop); a child that is wanted and not alive has died.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        state_dir: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        not_root: bool = False,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.state_dir = state_dir.absolute()
        self.log = self.state_dir / "logs" / f"{name}.log"
        self.wanted = False
        self._env = {**os.environ, **(env or {}), "STATE_DIR": str(self.state_dir)}
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._not_root = not_root
        self._port = port
        self._pid_file = self.state_dir / "run" / f"{name}.pid"
        self._popen: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs or before it was started."""
        return self._popen.poll() if self._popen is not None else None

    def spawn(self) -> None:
        """Start it, after ending what an earlier owner of this state directory left behind.

        Raises ServerNotReady when somebody else listens on its `port`: their answer would pass for ours.
        """
        with self._lock:
            self.wanted = True
            self.respawn()

    def respawn(self) -> None:
        """Start it again if it died and nobody has stopped it meanwhile."""
        with self._lock:
            if not self.wanted or self.pid is not None:
                return
            end_leftover(self._pid_file, self.state_dir)
            if self._port is not None and not is_free(self._port):
                raise ServerNotReady(f"{self.name} cannot start: 127.0.0.1:{self._port} is in use by another process")
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._pid_file.parent.mkdir(parents=True, exist_ok=True)
            self.trim_log()
            self._popen = _SPAWNER.submit(self._fork).result()
            _write_pid(self._pid_file, self._popen.pid)

    def stop(self, *, grace: float = 15.0) -> None:
        """Ask it to end; after `grace` seconds, make it. It is not wanted any more."""
        with self._lock:
            self.wanted = False
            if self._popen is None:
                return
            self._signal(self._stop_signal)
            self._signal(signal.SIGCONT)  # a paused process cannot obey
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._popen.wait()
            _kill_group(self._popen.pid)
            self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would: it stays wanted."""
        popen = self._popen
        if popen is not None:
            self._signal(signal.SIGKILL)
            popen.wait()

    def pause(self) -> None:
        """SIGSTOP: alive and silent."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def trim_log(self) -> None:
        """Keep the log within bounds. The child appends to an open file, so it is copied aside and cut, not renamed."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def wait_until(self, is_ready: Callable[[], bool], *, timeout: float) -> None:
        """Poll `is_ready` until it holds. Raises ServerNotReady when it ends first; kills it when time is up."""
        deadline = time.monotonic() + timeout
        while not is_ready():
            if self.pid is None:
                raise ServerNotReady(f"{self.name} ended with exit code {self.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerNotReady(f"{self.name} was not ready after {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def _fork(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # its end is waited for in stop(), kill() and poll()
                launch.command(self.argv, death_signal=self._death_signal, not_root=self._not_root),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            self._popen.send_signal(number)  # does nothing once it has been waited for


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # it took its own children along


def end_leftover(pid_file: Path, state_dir: Path) -> bool:
    """End the process a pid file names, if it is still the one that was started for this state directory."""
    process = find(pid_file, state_dir)
    pid_file.unlink(missing_ok=True)
    if process is None:
        return False
    try:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(5)
    except psutil.NoSuchProcess:
        return False
    return True


def end_leftovers(state_dir: Path) -> list[str]:
    """End whatever an owner of this state directory that died left behind; their names."""
    return [path.stem for path in sorted((state_dir / "run").glob("*.pid")) if end_leftover(path, state_dir)]


def find(pid_file: Path, state_dir: Path | None = None) -> psutil.Process | None:
    """The living process that a pid file names: same id and birth, and (if given) this STATE_DIR in its environment."""
    try:
        noted = json.loads(pid_file.read_text())
        process = psutil.Process(noted["pid"])
        if abs(process.create_time() - noted["born"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        ours = state_dir is None or process.environ().get("STATE_DIR") == str(state_dir.absolute())
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None  # no file, half a file, gone, or another user's: not ours to touch
    return process if ours else None


def write_own_pid(pid_file: Path) -> None:
    """Note the calling process, for `find`."""
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    _write_pid(pid_file, os.getpid())


def _write_pid(pid_file: Path, pid: int) -> None:
    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # dead already; whoever waits for it will say so
    draft = pid_file.with_suffix(".tmp")
    draft.write_text(json.dumps({"pid": pid, "born": born}))
    draft.replace(pid_file)
