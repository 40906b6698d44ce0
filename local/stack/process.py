"""Runs one child process that ends with its parent, with a bounded log; leftovers of a crash can be found again."""

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
from schemas.errors import BillingError

LOG_LIMIT = 20 * 1024 * 1024
"""Bytes of one log file; one older file of that size is kept too."""

# The kernel sends the death signal when the *thread* that forked ends. All children are forked by this thread, which
# lives as long as the process.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class ServerNotReady(BillingError):
    """A server exited or was not ready in time; the message ends with the last lines of its log."""


class ChildProcess:
    """A child in its own session, with `STATE_DIR/logs/NAME.log` and `STATE_DIR/run/NAME.pid`.

    `wanted` is true after `spawn` and false after `stop`. A child that is wanted and not alive has died.
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
        handed: Sequence[Path] = (),
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
        self._handed = handed
        self._port = port
        self._pid_file = self.state_dir / "run" / f"{name}.pid"
        self._popen: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal that ended it); None before the start and while it runs."""
        return self._popen.poll() if self._popen is not None else None

    def spawn(self) -> None:
        """Start the process, after ending a leftover of an earlier run in this state directory.

        Raises ServerNotReady if another process listens on its `port`: it would look as if this one were ready.
        """
        with self._lock:
            self.wanted = True
            self.respawn()

    def respawn(self) -> None:
        """Start the process again if it has died and was not stopped in the meantime."""
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
        """Send the stop signal, and SIGKILL after `grace` seconds. The process is no longer wanted."""
        with self._lock:
            self.wanted = False
            if self._popen is None:
                return
            self._signal(self._stop_signal)
            self._signal(signal.SIGCONT)  # a paused process cannot handle the stop signal
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._popen.wait()
            _kill_group(self._popen.pid)
            self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Send SIGKILL, to simulate a crash: the process stays wanted."""
        popen = self._popen
        if popen is not None:
            self._signal(signal.SIGKILL)
            popen.wait()

    def pause(self) -> None:
        """Send SIGSTOP: the process is alive but does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def trim_log(self) -> None:
        """Limit the log's size. The child keeps the file open, so it is copied and truncated instead of renamed."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def wait_until(self, is_ready: Callable[[], bool], *, timeout: float) -> None:
        """Poll `is_ready` until it returns true.

        Raises ServerNotReady if the process exits before, or after `timeout` seconds; then the process is killed.
        """
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
            return subprocess.Popen(  # it is reaped in stop(), kill() and poll()
                launch.command(
                    self.argv, death_signal=self._death_signal, not_root=self._not_root, handed=self._handed
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            self._popen.send_signal(number)  # does nothing if the process has been reaped


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # its own children have ended too


def end_leftover(pid_file: Path, state_dir: Path) -> bool:
    """End the process named in a pid file if it belongs to this state directory. Returns whether there was one."""
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
    """End the processes that a crashed run left in this state directory. Returns their names."""
    return [path.stem for path in sorted((state_dir / "run").glob("*.pid")) if end_leftover(path, state_dir)]


def find(pid_file: Path, state_dir: Path | None = None) -> psutil.Process | None:
    """Return the process named in a pid file if it is alive, else None.

    Its start time must match, and if `state_dir` is given, so must STATE_DIR in its environment.
    """
    try:
        noted = json.loads(pid_file.read_text())
        process = psutil.Process(noted["pid"])
        if abs(process.create_time() - noted["born"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        is_match = state_dir is None or process.environ().get("STATE_DIR") == str(state_dir.absolute())
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None  # no file, an incomplete file, no such process, or a process of another user
    return process if is_match else None


def write_own_pid(pid_file: Path) -> None:
    """Write the pid file of the calling process, for `find`."""
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    _write_pid(pid_file, os.getpid())


def _write_pid(pid_file: Path, pid: int) -> None:
    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # it has ended already; the caller that waits for it reports this
    draft = pid_file.with_suffix(".tmp")
    draft.write_text(json.dumps({"pid": pid, "born": born}))
    draft.replace(pid_file)
