"""`billing migrate`: migrates the database to the schema of this code. Safe to run again, and concurrently."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ops.commands.shadow import turn_on
from ops.commands.terminal import database_or_exit, run_or_exit, say, say_json
from sinks.postgres import migration
from sinks.postgres.revisions import is_known, newest_revision


def migrate(
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for the database to answer.")] = 30.0,
    roles: Annotated[bool, typer.Option("--roles", help="Create the roles of the processes and grant them.")] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Also turn shadow mode on: nothing leaves the system.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the revisions as JSON.")] = False,
) -> None:
    """Create or migrate the tables of the database for this version of the code.

    Example: BILLING_DATABASE_URL=postgresql://billing@127.0.0.1/billing billing migrate

    It can run while the system runs: each change holds its lock for moments, indexes are built concurrently, and data
    is changed in small batches. If it is interrupted, run it again: it continues.

    With --roles it creates a role for each process, which has only the rights that the process needs; this takes a user
    with CREATEROLE. Without it, roles that exist are granted their rights on new tables. docs/security.md lists them.

    After a rollback to this version it changes nothing: the schema of the next version serves this one, too.

    With --shadow a new system begins in shadow mode, before any process works; see `billing shadow`.

    Exits 1 if the database refuses a change, 2 if a setting is missing, 3 if the database does not answer.
    """
    settings = database_or_exit("migrate")
    migrated = run_or_exit(
        "migrate", lambda: migration.migrate(settings.database_url, wait_s=wait, creates_roles=roles)
    )
    if shadow:
        turn_on("migrate", settings)
    if as_json:
        say_json(asdict(migrated))
    elif not is_known(migrated.after):
        say(f"schema billing: at {migrated.after}, newer than this version's {newest_revision()}: nothing is changed")
    elif migrated.before == migrated.after:
        say(f"schema billing: already at {migrated.after}")
    else:
        say(f"schema billing: {migrated.before or 'nothing'} → {migrated.after}")
    if not as_json:
        if shadow:
            say("shadow mode is on: nothing leaves the system")
        for name, rows in migrated.backfilled.items():
            say(f"backfill {name}: {rows} rows")
        if roles:
            say(f"roles: {', '.join(migrated.roles)}")
