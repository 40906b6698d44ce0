"""`billing migrate`: migrates the database to the schema of this code. Safe to run again, and concurrently."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import orjson
import typer

from ops.commands.terminal import EXIT_INVALID_SETTINGS
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, load_settings
from sinks.postgres import migration


def migrate(
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for the database to answer.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the revisions as JSON.")] = False,
) -> None:
    """Create or migrate the tables of the database for this version of the code.

    Example: BILLING_DATABASE_URL=postgresql://billing@127.0.0.1/billing billing migrate

    It can run while the system runs: each change holds its lock for moments, indexes are built concurrently, and data
    is changed in small batches. If it is interrupted, run it again: it continues.

    Exits 1 if the database does not answer or refuses a change, 2 if a setting is missing.
    """
    try:
        migrated = asyncio.run(migration.migrate(load_settings().database_url, wait_s=wait))
    except InvalidSettings as error:
        typer.echo(f"billing migrate: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except BillingError as error:
        typer.echo(f"billing migrate: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(orjson.dumps(asdict(migrated)))
    elif migrated.before == migrated.after:
        typer.echo(f"schema billing: already at {migrated.after}")
    else:
        typer.echo(f"schema billing: {migrated.before or 'nothing'} → {migrated.after}")
    if not as_json:
        for name, rows in migrated.backfilled.items():
            typer.echo(f"backfill {name}: {rows} rows")
