"""`billing find`: any id, key, e-mail address, beginning of a name, message id, or place on the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from ops.commands.terminal import (
    Column,
    database_or_exit,
    exits,
    fail,
    run_or_exit,
    say,
    say_json,
    settings_or_exit,
    show_rows,
)
from schemas.command_line import command
from schemas.database_settings import DatabaseSettings
from schemas.record import decode_headers
from sinks.postgres.lists import find as look_up
from sinks.postgres.lists.find import MOST, Hit
from sinks.postgres.pool import reading


def find(
    anything: Annotated[str, typer.Argument(metavar="ANYTHING", help="An id, a key, an address, a name, TOPIC/0/17.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Find what has this id, key, e-mail address, message id or place on the log, or a name that begins so.

    Example: billing find jane@example.com
             billing find in_1MtHbELkdIwHu7ixl4OzzPMv
             billing find billing.events/4/1021

    Exits 1 if nothing is found, 2 if a setting is missing, 3 if the database or Kafka does not answer.
    """
    hits = hits_of("find", database_or_exit("find"), anything)
    if not hits:
        fail("find", f"nothing is known of {anything}")
    if as_json:
        for hit in hits:
            say_json(asdict(hit) | {"next": next_of(hit)})
        return
    show_hits(hits)
    if len(hits) == MOST:
        say(f"the first {MOST}; give more of it to see others")


def hits_of(command: str, settings: DatabaseSettings, anything: str) -> list[Hit]:
    """Return what the database finds; for a place on the log, also what Kafka has there. Exits 3 without an answer."""
    wanted = anything.strip()

    async def ask() -> list[Hit]:
        async with reading(settings.database_url) as connection:
            return await look_up.find(connection, wanted, dead_topic=settings.dead_topic)

    hits = run_or_exit(command, ask)
    place = look_up.place_of(wanted)
    if hits or place is None or place[0] not in (settings.events_topic, settings.dead_topic):
        return hits
    from eventlog.entry import headers_of  # only a place on the log needs Kafka
    from eventlog.lookup import RecordLookup

    with exits(command), RecordLookup(settings_or_exit(command).kafka, place[0]) as topic:
        message = topic.read(place[1], place[2])
    headers = decode_headers(headers_of(message)) if message is not None else {}
    event_id = headers.get("event_id", "")
    return [Hit("event", event_id, headers.get("account", ""), None, headers.get("type"))] if event_id else []


def show_hits(hits: Sequence[Hit]) -> None:
    """Print hits as a table, each with the command that shows more."""
    columns = [Column("kind"), Column("id"), Column("account"), Column("customer"), Column("about"), Column("next")]
    show_rows(
        columns,
        [(hit.kind, hit.id, hit.account, hit.customer_id, hit.about, next_of(hit)) for hit in hits],
    )


def next_of(hit: Hit) -> str:
    """Return the command that shows what was found, '' if none does."""
    match hit.kind:
        case "event":
            return command("event", hit.id)
        case "mail":
            return command("mail show", hit.id)
        case _ if hit.customer_id:
            return command("customer", hit.customer_id, account=hit.account)
        case _:
            return ""
