"""`billing doctor`: checks everything that a system needs to go live, and says what to do (behaviours.md F8)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from ops.commands.terminal import Column, refuse, say, say_json, settings_and_config, show_rows
from ops.doctor.checks import CHECKS, NAMES
from ops.doctor.findings import Situation, Status, run_checks
from ops.runtime.exit_codes import ExitCode


def doctor(
    only: Annotated[list[str] | None, typer.Option("--only", help=f"Only these checks: {', '.join(NAMES)}.")] = None,
    timeout: Annotated[float, typer.Option(min=1, max=300, help="Seconds for each check.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per finding.")] = False,
) -> None:
    """Check config, secrets, mails, schedules, Kafka, Postgres, the mail server and Stripe. Changes and sends nothing.

    Example: billing doctor --only stripe --only kafka

    Run it with the environment of the processes. Exits 0 if nothing failed (there may be warnings), 1 if a check
    failed, 2 if a setting is invalid.
    """
    if unknown := sorted(set(only or ()) - set(NAMES)):
        refuse("doctor", f"no such check: {', '.join(unknown)}; the checks are {', '.join(NAMES)}")
    settings, config = settings_and_config("doctor", warns=False)
    chosen = [check for check in CHECKS if not only or check.name in only]
    findings = asyncio.run(run_checks(chosen, Situation(settings, config), timeout_s=timeout))
    if as_json:
        for finding in findings:
            say_json(asdict(finding))
    else:
        show_rows(
            (Column("check", whole=True), Column("status", whole=True), Column("finding"), Column("what to do")),
            [(one.check, one.status, one.text, one.remedy or None) for one in findings],
        )
        counted = Counter(one.status for one in findings)
        say(", ".join(f"{counted[status]} {status}" for status in Status if counted[status]))
    if any(one.status is Status.FAILED for one in findings):
        raise typer.Exit(ExitCode.NO)
