"""Why rows of a live database and a rebuilt one may differ: events that the rebuild could not read, or that wait.

The customers of such events are noted while the ledger is compared, so it is read only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import Table

from schemas.state import Organization, User
from sinks.postgres import tables
from sinks.postgres.prune import ACTION, STEPS, Age

Owner = tuple[str, str | None]
Row = dict[str, Any]

REMOVED, LATER, WAITS, PRUNED = (
    "of events that retention has removed from the log",
    "of events that came after the rebuild",
    "of events that wait, or waited too long",
    "that billing prune has deleted, or whose contents it has ended",
)

# Few events are open, and they have an index. With LIMIT, letters are looked up by event instead of read as a whole.
_UNSETTLED = """
SELECT e.account, e.customer_id FROM billing.events e WHERE e.outcome = 'waiting'
UNION
SELECT e.account, e.customer_id FROM billing.events e CROSS JOIN LATERAL (
    SELECT FROM billing.dead_letters d WHERE d.event_id = e.event_id AND d.error_class = 'NeverKnown' LIMIT 1) d
WHERE e.outcome = 'dead'
"""
_USERS = "SELECT account, customer_id, user_id FROM billing.customers WHERE user_id IS NOT NULL"
# A link names no customer, but events of its objects do. `expanded` objects have an id, others are one.
_OBJECTS = """
SELECT DISTINCT e.account, e.customer_id, i.id
FROM (
    SELECT e.account, e.customer_id, e.payload FROM unnest($1::text[], $2::text[]) AS o (account, customer_id)
    JOIN billing.events e ON e.account = o.account AND e.customer_id = o.customer_id
    UNION ALL
    SELECT e.account, e.customer_id, e.payload FROM unnest($1::text[], $2::text[]) AS o (account, customer_id)
    JOIN billing.events e ON e.account = o.account AND e.customer_id IS NULL WHERE o.customer_id IS NULL
) AS e
CROSS JOIN LATERAL (SELECT e.payload #> '{data,object}') AS p (object)
CROSS JOIN LATERAL (VALUES (p.object->>'id'), (p.object->>'charge'), (p.object#>>'{charge,id}'),
    (p.object->>'latest_charge'), (p.object#>>'{latest_charge,id}'), (p.object->>'payment_intent'),
    (p.object#>>'{payment_intent,id}'), (p.object->>'invoice'), (p.object#>>'{invoice,id}'),
    (p.object#>>'{payment,charge}'), (p.object#>>'{payment,payment_intent}'),
    (p.object#>>'{payment_details,order_reference}')) AS i (id)
WHERE i.id IS NOT NULL
"""
# Rows that `billing prune` deletes whole, and the column that ages. A rebuilt row has the time of its record.
_DELETED_AFTER: Mapping[str, str] = {step.table: step.order for step in STEPS if step.age is Age.RECORDS}
_DELETED_BEFORE = """
SELECT max(at - (filter ->> $2)::interval) FROM billing.audit_log
WHERE action = $1 AND filter ->> $2 IS NOT NULL AND outcome <> 'refused'
"""


@dataclass(slots=True)
class Excuses:
    """Owners of rows that may differ: customers with events that the rebuild could not read or live has not settled."""

    live: asyncpg.Connection[asyncpg.Record]
    stretches: Mapping[int, tuple[int, int]]
    owners: dict[Owner, str]
    deleted_before: datetime | None
    """Rows older than this may be missing in the live database: `billing prune` has deleted some."""
    organizations: dict[str, str] = field(default_factory=dict)
    users: dict[tuple[str, str], str] = field(default_factory=dict)
    objects: dict[tuple[str, str], str] | None = None
    """By account and Stripe id: the objects that the owners' events name. None until `find_objects`."""

    @classmethod
    async def of(cls, live: asyncpg.Connection[asyncpg.Record], stretches: Mapping[int, tuple[int, int]]) -> Excuses:
        """Return the excuses of events that are not settled. `note_event` and `complete` add the others."""
        unsettled = await live.fetch(_UNSETTLED)
        owners: dict[Owner, str] = {(row["account"], row["customer_id"]): WAITS for row in unsettled}
        return cls(live, stretches, owners, await live.fetchval(_DELETED_BEFORE, ACTION, str(Age.RECORDS)))

    def note_event(self, row: Row) -> None:
        """Note the customer of an event of the live database that the rebuild could not read."""
        stretch = self.stretches.get(-1 if row["partition"] is None else row["partition"])
        if stretch is None or row["offset"] is None:
            return
        first, end = stretch
        if not first <= row["offset"] < end:
            self.owners[row["account"], row["customer_id"]] = REMOVED if row["offset"] < first else LATER

    async def complete(self) -> None:
        """Find the users and organizations of the owners, after all events were noted."""
        named = {(account, id_): reason for (account, id_), reason in self.owners.items() if id_ is not None}
        self.organizations = {Organization.id_of(*owner): reason for owner, reason in named.items()}
        self.users = {(owner[0], User.id_of(*owner)): reason for owner, reason in named.items()}
        for row in await self.live.fetch(_USERS) if named else ():
            if reason := named.get((row["account"], row["customer_id"])):
                self.users[row["account"], row["user_id"]] = reason

    async def find_objects(self) -> None:
        """Find the objects of the owners, for links that differ. This reads the payloads of the owners' events."""
        if self.objects is None:
            lists = [account for account, _ in self.owners], [customer_id for _, customer_id in self.owners]
            self.objects = {
                (row["account"], row["id"]): self.owners[row["account"], row["customer_id"]]
                for row in (await self.live.fetch(_OBJECTS, *lists) if self.owners else ())
            }

    def of_row(self, table: Table, row: Row, *, is_live: bool) -> str | None:
        """Return why this row may differ, or None."""
        if table is tables.users:
            return self.users.get((row["account"], row["user_id"]))
        if table is tables.memberships:
            return self.organizations.get(row["organization_id"])
        if table is tables.payment_links:
            return (self.objects or {}).get((row["account"], row["stripe_id"]))
        if (row.get("outcome") == "waiting" and is_live) or row.get("error_class") == "NeverKnown":
            return WAITS
        if table in (tables.events, tables.dead_letters) and is_live:
            return self._of_position(row["partition"], row["offset"]) or self._of_owner(row)
        return self._of_owner(row)

    def is_deleted(self, table: Table, rebuilt: Row) -> bool:
        """Return whether a row that only the rebuilt database has is old enough to have been pruned."""
        aged = _DELETED_AFTER.get(table.name)
        return aged is not None and self.deleted_before is not None and bool(rebuilt[aged] < self.deleted_before)

    def _of_owner(self, row: Row) -> str | None:
        return self.owners.get((row["account"], row["customer_id"]))

    def _of_position(self, partition: int | None, offset: int | None) -> str | None:
        stretch = self.stretches.get(-1 if partition is None else partition)
        if stretch is None or offset is None:
            return LATER
        return REMOVED if offset < stretch[0] else LATER if offset >= stretch[1] else None
