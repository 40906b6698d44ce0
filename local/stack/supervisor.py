"""Restarts the processes of a local system when they die, and stops them all at the end."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from local.stack.process import ChildProcess, ServerNotReady

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
STEADY_AFTER = 60.0
"""Seconds. Pauses between restarts double from the first to the longest; after a minute alive they start again at the
first."""

_TICK = 0.1
_PROBE_TIMEOUT = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Child:
    """One program to run: argument list, additional environment, and how to check that it is ready."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str | Callable[[], bool] | None = None
    """A URL that answers 200 when the program is ready, or a function that returns true. None: ready at once."""
    may_be_held: bool = False
    """Whether the program counts as started while its only trouble is the brake, which an operator releases."""
    cwd: Path | None = None
    port: int | None = None
    """The loopback port that the program listens on. It must be free at the start."""
    is_server: bool = False
    """Whether the others use it, so that it is stopped after them."""


@dataclass
class _Watch:
    process: ChildProcess
    is_ours: bool
    """Whether the supervisor started it and stops it."""
    is_server: bool = False
    pause: float = FIRST_PAUSE
    born: float = 0.0
    due: float | None = None
    """When it is restarted, in monotonic seconds; None while it is alive."""


class Supervisor:
    """Runs children and restarts those that die. Use it in a `with` statement, or call `stop`."""

    def __init__(self, state_dir: Path, say: Say) -> None:
        self._state_dir = state_dir.absolute()
        self._say = say
        self._watches: dict[str, _Watch] = {}
        self._stop_requested = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def processes(self) -> dict[str, ChildProcess]:
        """The watched processes by name, in the order of their start."""
        return {name: watch.process for name, watch in self._watches.items()}

    def run(self, child: Child) -> ChildProcess:
        """Start and watch a child without waiting until it is ready. Raises ServerNotReady if its port is in use."""
        process = ChildProcess(
            child.name, child.argv, state_dir=self._state_dir, env=child.env, cwd=child.cwd, port=child.port
        )
        self._add(_Watch(process, is_ours=True, is_server=child.is_server, born=time.monotonic()))
        process.spawn()
        return process

    def watch(self, process: ChildProcess) -> None:
        """Restart this process whenever it is wanted and dead. The caller stops it, after `stop` of the supervisor."""
        self._add(_Watch(process, is_ours=False, born=time.monotonic()))

    def _add(self, watch: _Watch) -> None:
        self._watches = {**self._watches, watch.process.name: watch}
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch_all, name="supervisor", daemon=True)
            self._thread.start()

    def wait_ready(self, child: Child, *, timeout: float) -> None:
        """Wait until the child is ready, also across restarts. Raises ServerNotReady after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        process = self.processes[child.name]
        while not _is_ready(child.ready):
            if child.may_be_held and self.held_by(child) is not None:
                return
            if time.monotonic() > deadline:
                raise ServerNotReady(f"{child.name} was not ready after {timeout:.0f} s:\n{process.tail()}")
            time.sleep(_TICK)

    def held_by(self, child: Child) -> str | None:
        """Returns why the brake holds the child; None if it does not, or is not the only trouble."""
        if not isinstance(child.ready, str) or not child.may_be_held:
            return None
        checks = _checks(child.ready)
        failing = {name: reason for name, reason in checks.items() if reason != "ok"}
        reason = failing.pop("brake", "")
        return reason if reason.startswith(HELD) and set(failing) <= _WAITS_FOR_THE_BRAKE else None

    def stop(self) -> None:
        """Stop the children that this supervisor started, together, then the servers among them.

        Kills those that do not stop in time.
        """
        self._stop_requested.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        ours = [watch for watch in self._watches.values() if watch.is_ours]
        for is_server in (False, True):
            _stop_together(watch.process for watch in ours if watch.is_server == is_server)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch_all(self) -> None:
        while not self._stop_requested.wait(_TICK):
            for watch in self._watches.values():
                self._look_after(watch, time.monotonic())

    def _look_after(self, watch: _Watch, now: float) -> None:
        process = watch.process
        process.trim_log()
        if process.pid is not None or not process.wanted:
            watch.due = None
        elif process.returncode is not None and watch.due is None:
            if now - watch.born > STEADY_AFTER:
                watch.pause = FIRST_PAUSE
            watch.due = now + watch.pause
            self._say(f"{process.name} {_end(process.returncode)}; starting it again in {watch.pause:g} s")
            watch.pause = min(watch.pause * 2, LONGEST_PAUSE)
        elif watch.due is not None and now >= watch.due:
            watch.due = None
            watch.born = now
            try:
                process.respawn()
            except (ServerNotReady, OSError) as error:  # OSError: out of processes or files, which may be temporary
                watch.due = now + watch.pause
                self._say(f"{error}; retrying in {watch.pause:g} s")
                watch.pause = min(watch.pause * 2, LONGEST_PAUSE)


def _stop_together(processes: Iterable[ChildProcess]) -> None:
    """Each waits for its own connections to end, so that one after the other they take the sum of these waits."""
    with ThreadPoolExecutor() as together:
        list(together.map(ChildProcess.stop, processes))


def _end(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


HELD = "the brake holds"
_WAITS_FOR_THE_BRAKE = {"faust"}
"""Checks of a worker that fail until it joins its group, which it does after the release."""


def _checks(address: str) -> dict[str, str]:
    """Returns the checks of a /readyz, empty if it does not answer."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_PROBE_TIMEOUT)
    try:
        connection.request("GET", parts.path)
        body = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return {str(name): str(reason) for name, reason in body.get("checks", {}).items()}


def _is_ready(ready: str | Callable[[], bool] | None) -> bool:
    if ready is None:
        return True
    if not isinstance(ready, str):
        return ready()
    address = urlsplit(ready)
    connection = http.client.HTTPConnection(address.netloc, timeout=_PROBE_TIMEOUT)
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
