"""`billing demo`: the whole system on this machine, a story of signed events through it, and what came of each."""

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

from local.demo.runner import DemoReport, StepResult, tell
from local.demo.story import story
from local.system import NOT_STARTED, System, stop_on_exit
from ops.commands.terminal import line_printer
from schemas.settings import InvalidSettings

EXIT_OTHERWISE = 1
"""Something came out otherwise than the story says."""

_WIDTH_WITHOUT_TERMINAL = 180


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end, on a terminal too.")] = False,
    state_dir: Annotated[Path, typer.Option("--state-dir", help="Where data, logs and mail are kept.")] = Path(
        ".billing/demo"
    ),
) -> None:
    """Start everything here and send a story of signed events through it.

    Example: billing demo --once; echo $?

    Exits 0 if all came out as the story says, 1 if not or if it could not start, 2 when a setting is wrong.
    """
    state_dir = state_dir.absolute()
    if os.environ.get("STATE_DIR") != str(state_dir):
        # Every process of a system carries STATE_DIR in its environment from birth, this one too.
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
        say("Sending the story: six customers, duplicates, wrong order, a forgery, poison, and a month that goes by")
        report = asyncio.run(tell(system, story(int(time.time())), say))
        _show(report, system)
        if not once and sys.stdout.isatty():
            say("\nThe system stays up; Ctrl-C ends it and leaves nothing running.")
            _wait_for_the_end()
    if report.surprises:
        raise typer.Exit(EXIT_OTHERWISE)


def _wait_for_the_end() -> None:
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()


def _show(report: DemoReport, system: System) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    console.print(_table(report.told))
    for letter in report.letters:
        console.print(
            f"Dead letter: {letter['event_id']} ({letter['type']}) at {letter['topic']}/{letter['partition']}"
            f"/{letter['offset']}, in {letter['stage']}:\n  {letter['error_class']}: {letter['message']}",
            markup=False,
        )
    figures = "   ".join(f"{name} {value}" for name, value in report.figures.items())
    console.print(f"\n{figures}", markup=False)
    for surprise in report.surprises:
        console.print(f"OTHERWISE THAN THE STORY SAYS: {surprise}", style="bold red", markup=False)
    if not report.surprises:
        console.print("All came out as the story says.", style="green")
    first = report.told[0]
    again = "" if console.is_terminal else f" (start it again: `.venv/bin/billing up --state-dir {system.state_dir}`)"
    console.print(
        f"\nWhere to look next{again}:\n"
        f"  set -a; . {system.state_dir}/env; set +a\n"
        f"  .venv/bin/billing customer {first.customer_id}\n"
        f"  .venv/bin/billing event {first.event_id}\n"
        f"  ls {system.mailbox_dir}          each mail, as it was received\n"
        f"  curl {system.gateway_url}/metrics",
        markup=False,
    )


def _table(told: list[StepResult]) -> Table:
    table = Table(show_lines=False, pad_edge=False)
    for heading in ("", "who", "event", "", "HTTP", "outcome", "what changed", "mail"):
        table.add_column(heading, overflow="fold")
    for one in told:
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
