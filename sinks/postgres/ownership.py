"""Finds the events of a customer or a guest that do not name them, by the Stripe objects that the events name.

`event_objects` has the objects of events without a customer: a dispute names only its charge. `object_owners` has the
customer of an object whose payload is erased or pruned. Neither has personal data, apart from the digest of a guest's
address, which ends with the guest's payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from schemas.ordering import GUEST
from schemas.record import Source
from sinks.postgres import tables
from sinks.postgres.rows import EventObjectRow, ObjectOwnerRow
from sinks.postgres.statements import RowShape, as_texts, texts

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_OBJECTS = RowShape(tables.event_objects, EventObjectRow, ["account", "stripe_id", "event_id"])
_OWNERS = RowShape(tables.object_owners, ObjectOwnerRow, ["account", "stripe_id"])
_INSERT_OBJECTS = _OBJECTS.insert("DO NOTHING")
_INSERT_OWNERS = _OWNERS.insert("DO NOTHING")

# A field holds an id or the expanded object. Only an id passes: an object's text would contain personal data.
_FIELDS = ("id", "charge", "latest_charge", "payment_intent", "payment_method", "setup_intent")
_VALUES = ", ".join(f"(p.object ->> '{name}'), (p.object -> '{name}' ->> 'id')" for name in _FIELDS)
_IDS_OF_PAYLOAD = (
    "CROSS JOIN LATERAL (SELECT e.payload -> 'data' -> 'object') AS p (object) "
    f"CROSS JOIN LATERAL (VALUES {_VALUES}) AS i (id)"
)
_IS_ID = "i.id ~ '^[A-Za-z0-9_]{3,255}$'"
_KEPT_TYPES = " OR ".join(
    f"e.type LIKE '{prefix}.%'"
    for prefix in ("charge", "payment_intent", "payment_method", "setup_intent", "checkout", "invoice", "refund")
)
_KEEP = (
    "INSERT INTO billing.object_owners (account, stripe_id, customer_id) "  # noqa: S608  # only constants
    f"SELECT DISTINCT e.account, i.id, e.customer_id FROM billing.events e {_IDS_OF_PAYLOAD} "
    f"WHERE {{condition}} AND e.customer_id IS NOT NULL AND i.id <> e.customer_id AND ({_KEPT_TYPES}) AND "
    f"{_IS_ID.replace('{', '{{').replace('}', '}}')} "
    "AND NOT EXISTS (SELECT FROM billing.payment_links l JOIN billing.payments m USING (payment_id) "
    "WHERE l.account = e.account AND l.stripe_id = i.id AND m.customer_id = e.customer_id) "
    "AND NOT EXISTS (SELECT FROM billing.payment_methods m "
    "WHERE m.account = e.account AND m.payment_method_id = i.id AND m.customer_id = e.customer_id) "
    "ON CONFLICT DO NOTHING"
)
KEEP_OWNERS = _KEEP.format(condition="e.account = $1 AND e.customer_id = $2")
"""Keeps whose the objects of a customer's payloads are. $1 is the account, $2 the customer's id."""
KEEP_OWNERS_OF_EVENTS = _KEEP.format(condition="e.event_id = ANY($1::text[])")
"""Does the same for the events in $1."""

NOTE_OBJECTS = (
    "INSERT INTO billing.event_objects (account, stripe_id, event_id) "  # noqa: S608  # only constants
    f"SELECT DISTINCT e.account, i.id, e.event_id FROM batch JOIN billing.events e USING (event_id) {_IDS_OF_PAYLOAD} "
    f"WHERE {_IS_ID} UNION SELECT e.account, '{GUEST}' || encode(sha256(convert_to(lower(btrim(a.email)), 'UTF8')), "
    "'hex'), e.event_id FROM batch JOIN billing.events e USING (event_id) "
    "CROSS JOIN LATERAL (SELECT e.payload #> '{data,object}') AS p (object) "
    "CROSS JOIN LATERAL (VALUES (p.object #>> '{customer_details,email}'), (p.object ->> 'customer_email'), "
    "(p.object #>> '{billing_details,email}'), (p.object ->> 'receipt_email')) AS a (email) "
    "WHERE a.email <> '' ON CONFLICT DO NOTHING"
)
"""The backfill of stored events, which the worker has noted since revision 0026."""
WITHOUT_CUSTOMER = "t.customer_id IS NULL AND t.payload IS NOT NULL AND t.type NOT LIKE 'timer.%'"

_OF_OWNED = (
    f"SELECT DISTINCT e.event_id FROM ROWS FROM ({texts(1)}, {texts(2)}) AS r (account, id) "  # noqa: S608  # only constants
    "JOIN billing.event_objects o ON o.account = r.account AND o.stripe_id = r.id "
    "JOIN billing.events e ON e.event_id = o.event_id WHERE e.customer_id IS NULL "
    "AND (e.payload IS NOT NULL OR e.payload_key IS NOT NULL)"
)
_ACCOUNTS_OF_GUEST = "SELECT DISTINCT account FROM billing.event_objects WHERE stripe_id = $1 ORDER BY 1"
_EVENTS_OF_OBJECTS = (
    "SELECT DISTINCT o.event_id FROM billing.event_objects o JOIN billing.events e ON e.event_id = o.event_id "  # noqa: S608  # only constants
    "WHERE o.account = $1 AND o.stripe_id = ANY($2::text[]) AND e.customer_id IS NULL "
    # When our gateway received it: Stripe's clock may differ from ours. What was fetched later is as old as it says.
    f"AND ($3::timestamptz IS NULL OR CASE WHEN e.source = '{Source.STRIPE}' THEN coalesce(e.received_at, e.created) "
    "ELSE coalesce(e.created, e.received_at) END <= $3)"
)
_OBJECTS_OF_EVENTS = (
    "SELECT o.stripe_id FROM billing.event_objects o WHERE o.account = $1 AND o.event_id = ANY($2::text[]) "  # noqa: S608  # only constants
    f"AND o.stripe_id NOT LIKE '{GUEST}%' "
    "UNION SELECT m.stripe_id FROM billing.payment_links l JOIN billing.payments p USING (payment_id) "
    "JOIN billing.payment_links m ON m.payment_id = l.payment_id "
    "WHERE l.account = $1 AND l.stripe_id = ANY($3::text[]) AND p.customer_id IS NULL"
)
FORGET_GUESTS = f"DELETE FROM billing.event_objects WHERE event_id = ANY($1::text[]) AND stripe_id LIKE '{GUEST}%'"  # noqa: S608  # only constants

"""Ends the digests of guests' addresses of the events in $1, by which their payloads are found."""
FORGET_GUESTS_UNLESS_ARCHIVED = (
    FORGET_GUESTS + " AND NOT EXISTS "
    "(SELECT FROM billing.events e WHERE e.event_id = event_objects.event_id AND e.payload_key IS NOT NULL)"
)
"""Does the same, but for events whose payload is in the archive: an erasure has to find them."""


@dataclass(frozen=True, slots=True)
class GuestData:
    """What belongs to a guest: the ids of their events, and of the objects that these name."""

    account: str
    event_ids: list[str]
    stripe_ids: list[str]


async def note_objects(connection: Connection, rows: Sequence[EventObjectRow]) -> None:
    """Stores the objects of events without a customer. Raises the driver's errors."""
    await connection.execute(_INSERT_OBJECTS, *_OBJECTS.arguments(rows))


async def keep_owners(connection: Connection, rows: Sequence[ObjectOwnerRow]) -> list[str]:
    """Stores whose these objects are. Returns the ids of the events that name one, no customer, and have a payload."""
    await connection.execute(_INSERT_OWNERS, *_OWNERS.arguments(rows))
    lists = [as_texts([row.account for row in rows]), as_texts([row.stripe_id for row in rows])]
    return [record[0] for record in await connection.fetch(_OF_OWNED, *lists)]


async def guest_data(connection: Connection, key: str, before: datetime | None = None) -> list[GuestData]:
    """Returns what belongs to the guest with this key, by account. Raises the driver's errors.

    With `before`, purchases that were received later are left out, but not late events of those before.
    """
    found = []
    for (account,) in await connection.fetch(_ACCOUNTS_OF_GUEST, key):
        events, objects = await _followed(connection, account, {key}, before)
        if before is not None:
            events, objects = await _followed(connection, account, objects - {key}, None)
        found.append(GuestData(account, sorted(events), sorted(objects - {key})))
    return [data for data in found if data.event_ids]


async def _followed(
    connection: Connection, account: str, objects: set[str], before: datetime | None
) -> tuple[set[str], set[str]]:
    """Returns the events that name the objects, what else these name, and so on: both sets only grow."""
    objects, events = set(objects), set[str]()
    while True:
        rows = await connection.fetch(_EVENTS_OF_OBJECTS, account, sorted(objects), before)
        more = {row[0] for row in rows} - events
        if not more:
            return events, objects
        events |= more
        named = await connection.fetch(_OBJECTS_OF_EVENTS, account, sorted(events), sorted(objects))
        objects |= {row[0] for row in named}


async def forget_guest(connection: Connection, event_ids: Sequence[str]) -> None:
    """Deletes the digests by which a guest's events were found. Raises the driver's errors."""
    await connection.execute(FORGET_GUESTS, list(event_ids))
