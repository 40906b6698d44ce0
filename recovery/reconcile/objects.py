"""Compares Stripe's subscriptions and invoices with the tables, and repairs differences (behaviours.md D7).

    list a page ─▶ compare ─▶ collect what differs ─▶ wait ─▶ compare again ─▶ append Stripe's objects ─▶ the next page

A list shows one moment. Objects that differ are checked again a little later: an event of the last seconds may not have
been processed yet, and a row that is now newer than the list is correct. What was repaired agrees, so a run that was
interrupted is run again and repairs only the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr, ValidationError

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.reconcile.events import append
from schemas.record import Source
from schemas.refetch import refetched_event
from schemas.stripe.invoice import StripeInvoice
from schemas.stripe.subscription import StripeSubscription
from sinks.postgres.failures import classified
from sinks.postgres.pool import connect
from sinks.stripe_api.api import ApiTrouble
from sinks.stripe_api.listing import Listed, ListPage, Lists

_SUBSCRIPTIONS = """
SELECT subscription_id AS id, customer_id, status, current_period_end, cancel_at, cancel_at_period_end,
    pause_collection, version,
    ARRAY(SELECT item->>'price' FROM jsonb_array_elements(items) item
          WHERE item->>'price' IS NOT NULL ORDER BY 1) AS prices
FROM billing.subscriptions WHERE account = $1 AND subscription_id = ANY($2::text[])
"""
_INVOICES = """
SELECT invoice_id AS id, status IN ('succeeded', 'refunded') AS paid, amount, currency, version
FROM billing.payments WHERE account = $1 AND invoice_id = ANY($2::text[])
"""
AT_ONCE = 2000
"""How many differing objects are held in memory until they are checked again."""
REPORTED = 1000
"""Maximum number of differing objects that a report describes. All are counted, and repaired if asked for."""

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drift:
    """An object that differs. `fields`: (Stripe's value, the table's value) by name. `missing`: there is no row."""

    kind: str
    account: str
    id: str
    fields: dict[str, tuple[Any, Any]]
    missing: bool
    repairable: bool
    stripe: Listed = field(repr=False)
    page: ListPage = field(repr=False)
    """The page that listed the object, without its items."""


@dataclass(slots=True)
class DriftReport:
    """The report of one account."""

    account: str
    compared: Counter[str] = field(default_factory=Counter)
    """Number of compared objects by kind."""
    unreadable: int = 0
    drifts: list[Drift] = field(default_factory=list)
    """The first REPORTED objects that differ."""
    differing: int = 0
    by_field: Counter[str] = field(default_factory=Counter)
    """Number of differing objects by field, and of `missing` ones."""
    queued: int = 0
    trouble: str | None = None
    is_unavailable: bool = False
    """Whether the trouble is that Stripe did not answer."""

    def add(self, drifts: Sequence[Drift]) -> None:
        self.differing += len(drifts)
        self.drifts += drifts[: REPORTED - len(self.drifts)]
        for drift in drifts:
            self.by_field.update(["missing"] if drift.missing else list(drift.fields))


class ObjectComparison:
    """Reads the objects from Stripe and from the tables. Not for concurrent use."""

    def __init__(self, lists: Lists, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._lists = lists
        self._connection = connection

    @classmethod
    async def connect(cls, lists: Lists, url: SecretStr) -> ObjectComparison:
        """Raises StoreUnavailable, InvalidSettings."""
        return cls(lists, await connect(url, application="billing-reconcile"))

    def close(self) -> None:
        self._connection.terminate()

    async def drift(
        self,
        account: str,
        since: datetime,
        *,
        settle_s: float,
        repair: Callable[[Sequence[Drift]], Awaitable[int]] | None = None,
        progress: Callable[[DriftReport], None] = lambda _: None,
    ) -> DriftReport:
        """Compare all subscriptions, and the invoices created since `since`. Raises StoreUnavailable, LogUnavailable.

        Errors of Stripe do not raise; they are in the report's `trouble`. `settle_s` is the pause in seconds before the
        objects that differ are checked again. `repair` repairs the objects that it is given, and returns how many were
        queued. `progress` is called after each page.
        """
        report = DriftReport(account)
        found: list[Drift] = []
        try:
            async with aclosing(self._drifting(account, since, report)) as drifting:
                async for some in drifting:
                    found += some
                    progress(report)
                    if len(found) >= AT_ONCE:
                        await self._settle(found, report, settle_s, repair)
                        found = []
        except ApiTrouble as error:
            report.trouble = f"{type(error).__name__}: {error}"
            report.is_unavailable = error.is_temporary
        await self._settle(found, report, settle_s, repair)
        progress(report)
        return report

    async def _settle(
        self,
        found: Sequence[Drift],
        report: DriftReport,
        settle_s: float,
        repair: Callable[[Sequence[Drift]], Awaitable[int]] | None,
    ) -> None:
        if found and settle_s:
            await asyncio.sleep(settle_s)
        drifts = [
            drift for _, same in groupby(found, key=lambda drift: drift.kind) for drift in await self._still(list(same))
        ]
        report.add(drifts)
        if repair is not None:
            report.queued += await repair(drifts)

    async def _drifting(self, account: str, since: datetime, report: DriftReport) -> AsyncGenerator[list[Drift]]:
        """Yield what differs, page by page."""
        for kind, path, params in (
            ("subscription", "/v1/subscriptions", {"status": "all"}),
            ("invoice", "/v1/invoices", {"created": {"gte": int(since.timestamp())}}),
        ):
            async for page in self._lists.pages(path, params, account):
                rows = await self._rows(kind, account, [item.id for item in page.items])
                found = []
                for item in page.items:
                    report.compared[kind] += 1
                    try:
                        drift = _compared(kind, account, item, page, rows.get(item.id))
                    except ValidationError:
                        report.unreadable += 1
                        continue
                    if drift is not None:
                        found.append(drift)
                yield found

    async def _rows(self, kind: str, account: str, ids: Sequence[str]) -> dict[str, Facts]:
        query = _SUBSCRIPTIONS if kind == "subscription" else _INVOICES
        with classified():
            return {row["id"]: dict(row) for row in await self._connection.fetch(query, account, list(ids))}

    async def _still(self, found: Sequence[Drift]) -> list[Drift]:
        """Return those of the objects, of one kind, that differ from the rows of this moment."""
        rows = await self._rows(found[0].kind, found[0].account, [drift.id for drift in found])
        return [drift for drift in found if not _has_settled(drift, rows.get(drift.id))]


def _has_settled(drift: Drift, row: Facts | None) -> bool:
    if _compared(drift.kind, drift.account, drift.stripe, drift.page, row) is None:
        return True
    # A version contains `created` of the newest event applied to the row, see schemas/version.py.
    return row is not None and _created(row["version"]) >= int(drift.page.as_of.timestamp())


def _created(version: str) -> int:
    return int(version.split(":")[1]) if version else 0


def _compared(kind: str, account: str, item: Listed, page: ListPage, row: Facts | None) -> Drift | None:
    if kind == "subscription":
        subscription = StripeSubscription.model_validate(item.object)
        theirs: Facts = {
            "customer_id": subscription.customer,
            "status": str(subscription.status),
            "prices": sorted(item.price for item in subscription.items if item.price is not None),
            "current_period_end": subscription.current_period_end,
            "cancel_at": subscription.cancel_at,
            "pause_collection": subscription.pause_collection,
            "cancel_at_period_end": subscription.cancel_at_period_end,
        }
        repairable = True
    else:
        invoice = StripeInvoice.model_validate(item.object)
        is_paid = item.object.get("status") == "paid" or item.object.get("paid") is True
        if not is_paid and (row is None or not row["paid"]):
            return None  # an invoice needs no row before it is paid
        theirs = {"paid": is_paid}
        if is_paid:
            theirs |= {"amount": invoice.paid_amount, "currency": invoice.currency}
        repairable = is_paid and _paid_at(item) is not None  # no Stripe event reverts a payment
    ours = {name: row[name] for name in theirs} if row is not None else dict.fromkeys(theirs)
    differing = {name: (value, ours[name]) for name, value in theirs.items() if ours[name] != value}
    if row is not None and not differing:
        return None
    return Drift(kind, account, item.id, differing, row is None, repairable, item, replace(page, items=[]))


def _paid_at(item: Listed) -> datetime | None:
    transitions = item.object.get("status_transitions")
    paid_at = transitions.get("paid_at") if isinstance(transitions, dict) else None
    return datetime.fromtimestamp(paid_at, UTC) if type(paid_at) is int else None


async def repair(
    drifts: Sequence[Drift], event_log: EventAppender, *, livemode: bool, clock: Callable[[], datetime]
) -> int:
    """Append Stripe's objects to the log as events (schemas/refetch.py); return their number. Raises LogUnavailable.

    The event of a subscription is dated when it was listed. That of an invoice is dated when the invoice was paid: a
    later date would override later changes of the subscription.
    """
    entries = [_entry(drift, livemode=livemode, now=clock()) for drift in drifts if drift.repairable]
    for first in range(0, len(entries), 500):
        await append(event_log, entries[first : first + 500])
    return len(entries)


def _entry(drift: Drift, *, livemode: bool, now: datetime) -> Entry:
    page = drift.page
    at = _paid_at(drift.stripe) if drift.kind == "invoice" else page.as_of
    event = refetched_event(
        f"reconcile:{drift.kind}:{drift.account}/{drift.id}:{page.as_of.isoformat()}",
        orjson.loads(drift.stripe.text),
        at=at or page.as_of,
        account=drift.account,
        livemode=livemode,
        api_version=page.api_version,
        request_id=page.request_id,
    )
    if drift.kind == "invoice":
        event["type"] = "invoice.paid"
    return Entry.of(
        event,
        source=Source.RECONCILE,
        received_at=now,
        livemode=livemode,
        account=drift.account,
        api_version=page.api_version,
    )
