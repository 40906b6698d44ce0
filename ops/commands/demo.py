"""`billing demo`: starts the whole system on this machine, sends signed events of a story, and prints each result."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from local.demo.runner import DemoReport, StepResult, run_story
from local.demo.story import story
from local.system import NOT_STARTED, System, stop_on_exit
from ops.commands.terminal import line_printer
from schemas.settings import InvalidSettings

EXIT_OTHERWISE = 1
"""A result differs from what the story expects."""

_WIDTH_WITHOUT_TERMINAL = 180


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
    say = line_printer()
    system = System(state_dir, 1, say)
    with stop_on_exit(system):
        try:
            system.start()
        except NOT_STARTED as error:
            typer.echo(f"billing: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, InvalidSettings) else 1) from None
        say("Sending the story: six customers, duplicates, wrong order, a forged and a broken event, a month of timers")
        report = asyncio.run(run_story(system, story(int(time.time())), say))
        _show(report, system)
        if not once and sys.stdout.isatty():
            say("\nThe system keeps running; Ctrl-C stops all of it.")
            _wait_for_signal()
    if report.surprises:
        raise typer.Exit(EXIT_OTHERWISE)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _show(report: DemoReport, system: System) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    console.print(_table(report.results))
    for letter in report.letters:
        console.print(
            f"Dead letter: {letter['event_id']} ({letter['type']}) at {letter['topic']}/{letter['partition']}"
            f"/{letter['offset']}, stage {letter['stage']}:\n  {letter['error_class']}: {letter['message']}",
            markup=False,
        )
    figures = "   ".join(f"{name} {value}" for name, value in report.figures.items())
    console.print(f"\n{figures}", markup=False)
    for surprise in report.surprises:
        console.print(f"NOT AS EXPECTED: {surprise}", style="bold red", markup=False)
    if not report.surprises:
        console.print("Every result is as expected.", style="green")
    first = report.results[0]
    again = "" if console.is_terminal else f" (start it again: `.venv/bin/billing up --state-dir {system.state_dir}`)"
    console.print(
        f"\nWhere to look next{again}:\n"
        f"  set -a; . {system.state_dir}/env; set +a\n"
        f"  .venv/bin/billing customer {first.customer_id}\n"
        f"  .venv/bin/billing event {first.event_id}\n"
        f"  ls {system.mailbox_dir}          each mail as it was received\n"
        f"  curl {system.gateway_url}/metrics",
        markup=False,
    )


def _table(results: list[StepResult]) -> Table:
    table = Table(show_lines=False, pad_edge=False)
    for heading in ("", "who", "event", "", "HTTP", "outcome", "what changed", "mail"):
        table.add_column(heading, overflow="fold")
    for one in results:
        if not one.type:
            table.add_section()
        table.add_row(
            "[green]✓[/]" if not one.surprises else "[red]✗[/]",
            one.who,
            one.type,
            one.what if one.type else f"[bold]{one.what}[/]",
            "" if one.answer is None else str(one.answer),
            one.outcome,
            "\n".join(one.changes),
            "\n".join(one.mails),
        )
    return table
