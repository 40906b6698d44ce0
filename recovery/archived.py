"""Reads the archived payload of an event that is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from sinks.payloads.archive import PayloadArchive
from sinks.postgres.queries import payload_key

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def archived_payload(connection: AsyncConnection, archive: PayloadArchive, row: dict[str, Any]) -> Any:
    """Returns the decoded payload of a ledger row whose payload is in the archive, else None. Raises ArchiveAway."""
    event_id, place = row["event_id"], row["payload_place"]
    if place is None or (key := await payload_key(connection, event_id)) is None:
        return None
    return orjson.loads(await archive.read(event_id, place, key))
