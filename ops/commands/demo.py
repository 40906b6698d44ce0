"""`billing demo`: starts the whole system on this machine, sends signed events of a story, and prints each result."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from local.demo.runner import DemoReport, StepResult, mrr_of, run_story
from local.demo.story import story
from local.demo.stripe import audit_story
from local.system import NOT_STARTED, System, stop_on_exit
from local.waiting import TooLate
from ops.commands.audit import show_reports
from ops.commands.mrr import show_figures
from ops.commands.terminal import Column, exits, is_terminal, run_or_exit, say, show_rows
from ops.runtime.exit_codes import ExitCode
from recovery.audit.audit import AnotherAudit
from sinks.stripe_api.api import ApiTrouble


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end, also on a terminal.")] = False,
    state_dir: Annotated[Path, typer.Option("--state-dir", help="Folder for data, logs and mails.")] = Path(
        ".billing/demo"
    ),
) -> None:
    """Start the whole system on this machine and send the signed events of a story to it.

    Example: billing demo --once; echo $?

    Exits 0 if every result is as expected, 1 if not or if the system cannot start, 2 if a setting is invalid.
    """
    state_dir = state_dir.absolute()
    if os.environ.get("STATE_DIR") != str(state_dir):
        # STATE_DIR in the environment of a process marks it as part of the system in that folder, this process too.
        command = [
            sys.executable,
            "-m",
            "ops.cli",
            "demo",
            "--state-dir",
            str(state_dir),
            *(["--once"] if once else []),
        ]
        os.execve(sys.executable, command, {**os.environ, "STATE_DIR": str(state_dir)})  # noqa: S606  # ourselves
    system = System(state_dir, 1, say, analytics=True)
    with stop_on_exit(system):
        with exits("demo", no=NOT_STARTED):
            system.start()
        say("Sending the story: six customers, duplicates, wrong order, a forged and a broken event, a month of timers")
        steps = story(int(time.time()))
        report = run_or_exit("demo", lambda: run_story(system, steps, say), no=(TooLate,))
        audit, differing = run_or_exit(
            "demo",
            lambda: audit_story(system.env, system.config, state_dir / "story.jsonl", steps),
            no=(ApiTrouble, AnotherAudit),
        )
        report.surprises += differing
        stays = not once and is_terminal()
        _show(report, system, stays=stays)
        say()
        say("billing audit, with a Stripe that has the story's objects and never had a status on_fire:")
        show_reports([audit], as_json=False)
        say()
        say("billing mrr, from what analytics has read meanwhile:")
        show_figures(run_or_exit("demo", lambda: mrr_of(system), no=(TooLate,)))
        if stays:
            say()
            say("The system keeps running; Ctrl-C stops all of it.")
            _wait_for_signal()
    if report.surprises:
        raise typer.Exit(ExitCode.NO)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _show(report: DemoReport, system: System, *, stays: bool) -> None:
    columns = [Column(name) for name in ("ok", "who", "event", "what", "HTTP", "outcome", "what changed", "mail")]
    show_rows(columns, [_cells(one) for one in report.results])
    for letter in report.letters:
        say(
            f"Dead letter: {letter['event_id']} ({letter['type']}) at {letter['topic']}/{letter['partition']}"
            f"/{letter['offset']}, stage {letter['stage']}:"
        )
        say(f"  {letter['error_class']}: {letter['message']}")
    say()
    say("   ".join(f"{name} {value}" for name, value in report.figures.items()))
    for surprise in report.surprises:
        say(f"NOT AS EXPECTED: {surprise}")
    if not report.surprises:
        say("Every result is as expected.")
    first = report.results[0]
    again = "" if stays else f" (start it again: `.venv/bin/billing up --state-dir {system.state_dir}`)"
    say()
    say(f"Where to look next{again}:")
    say(f"  set -a; . {system.state_dir}/env; set +a")
    say(f"  .venv/bin/billing customer {first.customer_id}")
    say(f"  .venv/bin/billing event {first.event_id}")
    say(f"  ls {system.mailbox_dir}          each mail as it was received")
    say("  curl $BILLING_GATEWAY_OPS_URL/metrics")
    say("  .venv/bin/billing console link          the console, signs in once")


def _cells(one: StepResult) -> tuple[object, ...]:
    mark = "✗" if one.surprises else "✓"
    changes, mails = "; ".join(one.changes), "; ".join(one.mails)
    return (mark, one.who, one.type, one.what, one.answer, one.outcome, changes, mails)
