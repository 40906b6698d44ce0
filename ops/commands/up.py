"""`billing up` and `billing down`: the whole system on this machine, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, NoReturn

import typer

from local.stack.kafka import BROKERS
from local.stack.process import end_leftovers
from local.state_dir import AlreadyRunning, Claim, make_private
from local.system import _END_SIGNALS, NOT_STARTED, System, SystemNotStarted, stop_on_exit
from ops.commands.terminal import line_printer
from schemas.settings import InvalidSettings

_DETACH_TIMEOUT = 600.0
_STOP_TIMEOUT = 90.0

StateDir = Annotated[Path, typer.Option("--state-dir", help="Where data, logs, config and env are kept.")]


def up(
    state_dir: StateDir = Path(".billing"),
    workers: Annotated[int, typer.Option("--workers", min=1, max=32, help="Worker processes, one group.")] = 1,
    brokers: Annotated[int, typer.Option("--brokers", help="Of Kafka: 1, or 3, of which one may die.")] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready; `billing down` ends it.")] = False,
    analytics: Annotated[bool, typer.Option("--analytics", help="Keep figures too, for `billing mrr`.")] = False,
) -> None:
    """Run the whole system here: Kafka, Postgres, a mailbox, gateway, workers, dispatcher, scheduler.

    Example: billing up --workers 2 --detach && set -a && . .billing/env

    Ctrl-C ends it and leaves nothing running; data is kept. Exits 1 when it cannot start or already runs, 2 when a
    setting is wrong.
    """
    state_dir = state_dir.absolute()
    say = line_printer()
    if brokers not in BROKERS:
        raise typer.BadParameter(f"{brokers}: there are {' or '.join(map(str, BROKERS))} brokers")
    command = _foreground(state_dir, workers, brokers, analytics=analytics)
    if Claim(state_dir).is_taken():
        _fail(AlreadyRunning(f"already running in {state_dir}; `billing down` ends it"))
    if detach:
        _detach(state_dir, command, say)
        return
    if os.environ.get("STATE_DIR") != str(state_dir):
        # Every process of a system carries STATE_DIR in its environment from birth, this one too.
        os.execve(sys.executable, command, {**os.environ, "STATE_DIR": str(state_dir)})  # noqa: S606 - ourselves
    system = System(state_dir, workers, say, analytics=analytics, brokers=brokers)
    asked = threading.Event()
    with stop_on_exit(system):
        try:
            system.start()
        except NOT_STARTED as error:
            _fail(error)
        say(f"Mail arrives in {system.mailbox_dir}, logs are in {state_dir / 'logs'}; Ctrl-C ends it")
        for number in _END_SIGNALS:
            signal.signal(number, lambda *_: asked.set())
        asked.wait()


def down(state_dir: StateDir = Path(".billing")) -> None:
    """End the system that runs in this state directory. Its data is kept.

    Example: billing down --state-dir .billing

    Exits 0 when nothing runs any more, whether or not something did; 1 when it could not be ended.
    """
    state_dir = state_dir.absolute()
    say = line_printer()
    claim = Claim(state_dir)
    was_running = claim.is_taken()
    deadline = time.monotonic() + _STOP_TIMEOUT
    while claim.is_taken():
        owner = claim.owner()
        if owner is not None:
            owner.send_signal(signal.SIGTERM if time.monotonic() < deadline - 10 else signal.SIGKILL)
        if time.monotonic() > deadline:
            _fail(SystemNotStarted(f"could not end what runs in {state_dir}"))
        _wait_for_end(claim, min(deadline - 10, time.monotonic() + 40))
    left = end_leftovers(state_dir)
    say(f"Stopped {state_dir}" if was_running or left else f"Nothing runs in {state_dir}")


def _foreground(state_dir: Path, workers: int, brokers: int, *, analytics: bool) -> list[str]:
    command = [sys.executable, "-m", "ops.cli", "up", "--state-dir", str(state_dir)]
    command += ["--workers", str(workers), "--brokers", str(brokers)]
    return [*command, "--analytics"] if analytics else command


def _detach(state_dir: Path, command: list[str], say: Callable[[str], None]) -> None:
    """Start the foreground command in a session of its own, repeat what it says, return when it is ready."""
    log = state_dir / "logs" / "up.log"
    make_private(state_dir)
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            command,
            env={**os.environ, "STATE_DIR": str(state_dir)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    is_ready = False
    try:
        with log.open() as told:
            is_ready = _follow(process, told, Claim(state_dir), say)
    finally:
        if not is_ready:
            process.terminate()
            process.wait()  # bounded: it stops its children within bounds
    if not is_ready:
        raise typer.Exit(process.returncode or 1)
    say(f"Running in the background; `billing down --state-dir {state_dir}` ends it")
    process.returncode = 0  # it is not ours to wait for any more


def _follow(process: subprocess.Popen[bytes], told: IO[str], claim: Claim, say: Callable[[str], None]) -> bool:
    """Repeat its lines until it is ready (True), has ended, or the time is up."""
    deadline = time.monotonic() + _DETACH_TIMEOUT
    while time.monotonic() < deadline:
        is_ready, has_ended = claim.is_ready(), process.poll() is not None
        for line in told.read().splitlines():  # after the question: nothing said before the answer is missed
            say(line)
        if is_ready or has_ended:
            return is_ready and not has_ended
        time.sleep(0.1)
    say(f"not ready after {_DETACH_TIMEOUT:.0f} s")
    return False


def _wait_for_end(claim: Claim, until: float) -> None:
    while claim.is_taken() and time.monotonic() < until:
        time.sleep(0.1)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"billing: {error}", err=True)
    raise typer.Exit(2 if isinstance(error, InvalidSettings) else 1)
