"""`billing adopt`: gives a consumer group to this database, after a deliberate move."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from eventlog.ownership import claim
from ops.commands.acting import entry_for
from ops.commands.terminal import fail, run_or_exit, say, settings_or_exit
from ops.runtime.exit_codes import ExitCode
from schemas.settings import Settings
from sinks.postgres.audited import recorded
from sinks.postgres.positions import identity_of


def adopt(
    group: Annotated[str | None, typer.Option(help="The consumer group. Default: the one of all streams.")] = None,
) -> None:
    """Give the worker's consumer group to this database. Stop the workers first.

    A group belongs to one database, and a worker with another one refuses to start. After a deliberate move to a new
    database, this makes the new one the owner; its workers then read the log from the position that it has reached.

    Example: billing adopt

    Exits 2 if a setting is invalid or the database is not migrated, 3 if Kafka or Postgres does not answer.
    """
    settings = settings_or_exit("adopt")
    name = group or f"{settings.topic_prefix}.worker"
    identity = run_or_exit("adopt", lambda: identity_of(settings.database_url))
    if identity is None:
        fail("adopt", "the database has no id yet: run billing migrate", code=ExitCode.USAGE)
    before = run_or_exit("adopt", lambda: _move(settings, name, identity.database_id))
    if before == identity.database_id:
        say(f"{name} belongs to database {before} already")
    else:
        say(f"{name} belongs to database {identity.database_id} now (before: {before or 'none'})")


async def _move(settings: Settings, group: str, database_id: str) -> str | None:
    """Make the database the owner of the group. Returns the id of the former one."""
    replication = settings.replication_factor
    async with recorded(settings.database_url, entry_for("adopt", target=group, filter={"database": database_id})):
        return await asyncio.to_thread(
            claim, settings.kafka, group, database_id, replication_factor=replication, move=True
        )
