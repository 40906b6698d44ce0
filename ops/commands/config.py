"""`billing config check`: finds every mistake in the config and the environment, without connecting to anything."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ops.commands.terminal import Column, say, say_json, show_rows
from ops.doctor.config_problems import problems_of_environment, problems_of_file, valid_settings
from ops.runtime.exit_codes import ExitCode

app = typer.Typer(help="Check the config and the environment.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Check the config and the environment."""


@app.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Only this file. Default: the environment and the file of BILLING_CONFIG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per problem.")] = False,
) -> None:
    """Show every mistake with its file, key and remedy. Connects to nothing, and shows no value.

    Example: billing config check billing.toml

    The secrets of endpoints and destinations may be in the environment. `billing doctor` also asks Kafka, Postgres, the
    mail server and Stripe.

    Exits 0 if every process would take it (there may be warnings), 2 if not.
    """
    is_whole = file is None
    found = problems_of_environment() if is_whole else []
    if is_whole and (named := os.environ.get("BILLING_CONFIG")):
        file = Path(named)
    if file is not None:
        found += problems_of_file(file, valid_settings() if is_whole else None)
    if as_json:
        for problem in found:
            say_json(asdict(problem))
    elif found:
        columns = (Column("file"), Column("key", whole=True), Column("problem"), Column("what to do"))
        rows = [
            (one.file, one.key or None, f"warning: {one.text}" if one.is_warning else one.text, one.remedy)
            for one in found
        ]
        show_rows(columns, rows)
    wrong = sum(not one.is_warning for one in found)
    if wrong:
        if not as_json:
            say(f"{wrong} problem{'s' if wrong > 1 else ''}")
        raise typer.Exit(ExitCode.USAGE)
    if not as_json:
        warnings = f", {len(found)} warning{'s' if len(found) > 1 else ''}" if found else ""
        say(f"{file}: no problem{warnings}")
