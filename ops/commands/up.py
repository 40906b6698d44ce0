"""`billing up` and `billing down`: start and stop the whole system on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Annotated

import typer

from local.stack.kafka import BROKERS
from local.stack.process import end_leftovers
from local.state_dir import Claim, make_private, open_private
from local.system import END_SIGNALS, NOT_STARTED, System, stop_on_exit
from ops.commands.terminal import exits, fail, is_terminal, say

_DETACH_TIMEOUT = 600.0
_STOP_TIMEOUT = 90.0

StateDir = Annotated[Path, typer.Option("--state-dir", help="Folder for data, logs, config and env.")]


def up(
    state_dir: StateDir = Path(".billing"),
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=32, help="Number of worker processes, in one group.")
    ] = 1,
    brokers: Annotated[int, typer.Option("--brokers", help="Kafka brokers: 1, or 3 of which one may fail.")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the system is ready; `billing down` stops it.")
    ] = False,
    analytics: Annotated[bool, typer.Option("--analytics", help="Also run analytics, for `billing mrr`.")] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Turn shadow mode on before any process works: nothing leaves.")
    ] = False,
) -> None:
    """Run the whole system on this machine: Kafka, Postgres, mailbox, gateway, workers, and all other processes.

    Example: billing up --workers 2 --detach && set -a && . .billing/env

    With BILLING_SMTP_URL mails go to that server, such as Mailpit, in place of a mailbox of its own. With
    BILLING_WEBHOOK_SECRET the gateway also takes events of `stripe listen --forward-to URL`, whose secret that is.

    Ctrl-C stops all processes; data is kept. Exits 1 if the system cannot start or is already running, 2 if a setting
    is invalid.
    """
    state_dir = state_dir.absolute()
    if brokers not in BROKERS:
        raise typer.BadParameter(f"{brokers}: --brokers must be {' or '.join(map(str, BROKERS))}")
    command = _foreground(state_dir, workers, brokers, analytics=analytics, shadow=shadow)
    if Claim(state_dir).is_taken():
        fail("up", f"already running in {state_dir}; `billing down` stops it")
    if detach:
        _detach(state_dir, command)
        return
    if os.environ.get("STATE_DIR") != str(state_dir):
        # STATE_DIR in the environment of a process marks it as part of the system in that folder, this process too.
        os.execve(sys.executable, command, {**os.environ, "STATE_DIR": str(state_dir)})  # noqa: S606 - ourselves
    system = System(state_dir, workers, say, analytics=analytics, brokers=brokers, shadow=shadow, given=os.environ)
    stop = threading.Event()
    with stop_on_exit(system):
        with exits("up", no=NOT_STARTED):
            system.start()
        mails = (
            "Mails leave by BILLING_SMTP_URL"
            if system.has_foreign_mail_server
            else f"Mails are in {system.mailbox_dir}"
        )
        # With --detach the output is a file, and there is no one to press keys.
        stops = "Ctrl-C" if is_terminal() else f"`billing down --state-dir {state_dir}`"
        say(f"{mails}, logs in {state_dir / 'logs'}; {stops} stops the system")
        for number in END_SIGNALS:
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


def down(state_dir: StateDir = Path(".billing")) -> None:
    """Stop the system that runs in this state directory. Its data is kept.

    Example: billing down --state-dir .billing

    Exits 0 if nothing is running any more, also if nothing was running before; 1 if the system could not be stopped.
    """
    state_dir = state_dir.absolute()
    claim = Claim(state_dir)
    was_running = claim.is_taken()
    deadline = time.monotonic() + _STOP_TIMEOUT
    while claim.is_taken():
        owner = claim.owner()
        if owner is not None:
            owner.send_signal(signal.SIGTERM if time.monotonic() < deadline - 10 else signal.SIGKILL)
        if time.monotonic() > deadline:
            fail("down", f"could not stop the system in {state_dir}")
        _wait_for_end(claim, min(deadline - 10, time.monotonic() + 40))
    left = end_leftovers(state_dir)
    say(f"Stopped {state_dir}" if was_running or left else f"Nothing is running in {state_dir}")


def _foreground(state_dir: Path, workers: int, brokers: int, *, analytics: bool, shadow: bool) -> list[str]:
    command = [sys.executable, "-m", "ops.cli", "up", "--state-dir", str(state_dir)]
    command += ["--workers", str(workers), "--brokers", str(brokers)]
    return [*command, *(["--analytics"] if analytics else []), *(["--shadow"] if shadow else [])]


def _detach(state_dir: Path, command: list[str]) -> None:
    """Start the foreground command in its own session, print its output, and return when it is ready."""
    log = state_dir / "logs" / "up.log"
    with exits("up", no=NOT_STARTED):
        make_private(state_dir, say)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with open_private(log) as out:
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
        with log.open() as lines:
            is_ready = _follow(process, lines, Claim(state_dir))
    finally:
        if not is_ready:
            process.terminate()
            process.wait()  # does not hang: the process stops its children within a limited time
    if not is_ready:
        raise typer.Exit(process.returncode or 1)
    say(f"Running in the background; `billing down --state-dir {state_dir}` stops it")
    process.returncode = 0  # without this, Popen would warn that the process is still running


def _follow(process: subprocess.Popen[bytes], lines: IO[str], claim: Claim) -> bool:
    """Print the lines of the process. Returns True when it is ready, False when it has ended or after 600 s."""
    deadline = time.monotonic() + _DETACH_TIMEOUT
    while time.monotonic() < deadline:
        is_ready, has_ended = claim.is_ready(), process.poll() is not None
        for line in lines.read().splitlines():  # read after the check, so that no line before the end is missed
            say(line)
        if is_ready or has_ended:
            return is_ready and not has_ended
        time.sleep(0.1)
    say(f"not ready after {_DETACH_TIMEOUT:.0f} s")
    return False


def _wait_for_end(claim: Claim, until: float) -> None:
    while claim.is_taken() and time.monotonic() < until:
        time.sleep(0.1)
