"""Erases on request: customers through the log, guests directly.

A customer's erasure is an event on the log (schemas/erasure.py), so that it is applied in the order of all others and a
rebuild repeats it. A guest has no state and no order: one transaction erases what their purchases stored. An event on
the log records that first, so that `repeat` finds what a restored or rebuilt database lacks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.privacy.subjects import CustomerSubject, Subjects, guest_name
from schemas.erasure import GUEST_ERASURE, erasure_event, guest_erasure_event
from schemas.errors import ServiceUnavailable
from schemas.ordering import GUEST
from schemas.record import Source
from schemas.state import derived_id
from sinks.postgres import erasure, ownership
from sinks.postgres.audit_log import without_addresses
from sinks.postgres.failures import classified
from sinks.postgres.ownership import GuestData, guest_data
from sinks.postgres.rows import ErasureRow, ObjectOwnerRow

_POLL_S = 0.2
_ERASED = "SELECT counts FROM billing.erasures WHERE event_id = $1"
_NOT_REPEATED = f"""
SELECT e.event_id, e.account, e.created,
    coalesce(e.received_at, e.created) AS received_at, e.payload #>> '{{data,object,guest}}' AS guest,
    e.payload #>> '{{data,object,by}}' AS by, e.payload #>> '{{data,object,reason}}' AS reason
FROM billing.events e
WHERE e.type = '{GUEST_ERASURE}' AND e.outcome = 'ignored' AND ($1::text IS NULL OR e.account = $1)
    AND e.payload IS NOT NULL AND e.payload #>> '{{data,object,guest}}' LIKE '{GUEST}%'
    AND NOT EXISTS (SELECT FROM billing.erasures x WHERE x.event_id = e.event_id)
ORDER BY e.created, e.event_id
"""  # noqa: S608  # only constants, since the index is of this type only
_NOW = "SELECT clock_timestamp()"
# One erasure of a guest at a time: two commands that repeat erasures find the same ones.
_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('billing.guest_erasure'))"
_VERDICT = "SELECT outcome, reason FROM billing.events WHERE event_id = $1 AND outcome <> 'waiting'"


class NotApplied(ServiceUnavailable):
    """The request is on the log, and no worker has applied it in the time that the caller waits."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One customer or guest, and the rows that an erasure changes by table."""

    name: str
    counts: dict[str, int]
    event_id: str = ""
    refused: str | None = None
    """Why the worker has not erased the customer: a subscription began meanwhile."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(slots=True)
class Eraser:
    """Counts and erases. `event_log` is needed to erase, not to count and to repeat."""

    connection: asyncpg.Connection[asyncpg.Record]
    livemode: bool
    clock: Callable[[], datetime]
    event_log: EventAppender | None = None
    events_kept: timedelta | None = None
    """How long the log keeps a record, for the record of a guest's erasure."""
    wait_s: float = 60.0
    _now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self._now = self.clock()

    async def count(self, subjects: Subjects) -> list[Erasure]:
        """Returns what an erasure would change, in one snapshot. Raises StoreUnavailable."""
        with classified():
            async with self.connection.transaction(isolation="repeatable_read", readonly=True):
                found = [Erasure(one.name, await self._count(one)) for one in subjects.customers]
                for guest in subjects.guests:
                    counts = await erasure.count_events(
                        self.connection, guest.account, guest.event_ids, guest.stripe_ids, self._now
                    )
                    found.append(Erasure(guest_name(guest), counts))
        return found

    async def _count(self, one: CustomerSubject) -> dict[str, int]:
        return await erasure.count(self.connection, one.account, one.customer_id, one.organization_id, self._now)

    async def erase(self, subjects: Subjects, *, by: str, reason: str, even_if_running: bool) -> list[Erasure]:
        """Erases all and returns what was changed. Raises StoreUnavailable, LogUnavailable, NotApplied.

        Raises ValueError, before anything is erased, without an `event_log`.
        """
        if not subjects.is_empty and self.event_log is None:
            raise ValueError("an erasure is on the log, and this Eraser has no event_log")
        reason, key = without_addresses(reason), subjects.guest_key or ""
        with classified():
            at: datetime = await self.connection.fetchval(_NOW)  # servers agree on it; an operator's machine may not
        noted = [
            guest_erasure_event(one.account, key, by=by, reason=reason, at=at, livemode=self.livemode)
            for one in subjects.guests
        ]
        await self._append(noted, at)
        guests = [
            await self._erase_guest(
                guest,
                key,
                str(event["id"]),
                asked_at=datetime.fromtimestamp(event["created"], UTC),
                by=by,
                reason=reason,
            )
            for guest, event in zip(subjects.guests, noted, strict=True)
        ]
        return [*await self._erase_customers(subjects.customers, by, reason, even_if_running), *guests]

    async def _erase_customers(
        self, customers: list[CustomerSubject], by: str, reason: str, even_if_running: bool
    ) -> list[Erasure]:
        at = self.clock()
        events = [
            erasure_event(
                one.account,
                one.customer_id,
                by=by,
                reason=reason,
                even_if_running=even_if_running,
                at=at,
                livemode=self.livemode,
            )
            for one in customers
        ]
        await self._append(events, at)
        deadline = time.monotonic() + self.wait_s
        return [
            await self._applied(one.name, str(event["id"]), deadline)
            for one, event in zip(customers, events, strict=True)
        ]

    async def _append(self, events: Sequence[Mapping[str, Any]], at: datetime) -> None:
        if not events or self.event_log is None:
            return
        await self.event_log.append(
            [
                Entry.of(
                    event,
                    source=Source.OPERATOR,
                    received_at=at,
                    livemode=self.livemode,
                    account=str(event.get("account", "")),
                )
                for event in events
            ]
        )

    async def repeat(self, *, by: str, account: str | None = None, is_dry: bool = False) -> list[Erasure]:
        """Erases the guests again whose erasure is in the ledger, but was not carried out in this database.

        `by` is who repeats them. Of an `account`, only its guests; '' is the own account. Purchases that began after
        the erasure stay. Raises StoreUnavailable.
        """
        done = []
        with classified():
            noted = await self.connection.fetch(_NOT_REPEATED, account)
        for one in noted:
            with classified():
                found = await guest_data(self.connection, one["guest"], one["received_at"])
            guest = next((data for data in found if data.account == one["account"]), None)
            guest = guest or GuestData(one["account"], [], [])
            if is_dry:
                with classified():
                    counts = await erasure.count_events(
                        self.connection, guest.account, guest.event_ids, guest.stripe_ids, self._now
                    )
                done.append(Erasure(guest_name(guest), counts, one["event_id"]))
            else:
                reason = f"repeated, first by {one['by'] or 'unknown'}: {one['reason'] or ''}"
                done.append(
                    await self._erase_guest(
                        guest, one["guest"], one["event_id"], asked_at=one["created"], by=by, reason=reason
                    )
                )
        return done

    async def _applied(self, name: str, event_id: str, deadline: float) -> Erasure:
        while True:
            with classified():
                verdict = await self.connection.fetchrow(_VERDICT, event_id)
                counts = await self.connection.fetchval(_ERASED, event_id) if verdict is not None else None
            if counts is not None:
                return Erasure(name, orjson.loads(counts), event_id)
            if verdict is not None:
                return Erasure(name, {}, event_id, refused=verdict["reason"] or verdict["outcome"])
            if time.monotonic() >= deadline:
                raise NotApplied(
                    f"{name}: the request is on the log as {event_id}, and no worker has applied it within "
                    f"{self.wait_s:g} s; it is applied once a worker runs"
                )
            await asyncio.sleep(_POLL_S)

    async def _erase_guest(
        self, guest: GuestData, key: str, event_id: str, *, asked_at: datetime, by: str, reason: str
    ) -> Erasure:
        """In one transaction, with its record. Late events of these purchases store nothing personal either.

        If another command has meanwhile carried it out, returns what that one has changed.
        """
        now = self.clock()
        # Not the digest of the address, which whoever knows the address can find. The same one in a rebuilt database.
        owner = f"{GUEST}{derived_id('erased', event_id)}"
        owners = [ObjectOwnerRow(account=guest.account, stripe_id=id_, customer_id=owner) for id_ in guest.stripe_ids]
        row = ErasureRow(
            event_id=event_id,
            account=guest.account,
            customer_id=owner,
            organization_id="",
            asked_at=asked_at,
            erased_at=now,
            kafka_until=now + self.events_kept if self.events_kept is not None else None,
            dead_letters_kept=None,
            by=by,
            reason=f"{reason} ({key})",
        )
        with classified():
            async with self.connection.transaction():
                await self.connection.execute(_TAKE_TURN)
                stored = await self.connection.fetchval(_ERASED, event_id)
                if stored is not None:
                    return Erasure(guest_name(guest), orjson.loads(stored), event_id)
                counts = await erasure.clear_events(
                    self.connection, guest.account, guest.event_ids, guest.stripe_ids, now
                )
                if owners:
                    await ownership.keep_owners(self.connection, owners)
                await ownership.forget_guest(self.connection, guest.event_ids)
                await erasure.note(self.connection, row, counts, None)
        return Erasure(guest_name(guest), counts, row.event_id)
