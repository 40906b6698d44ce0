"""Beside the flow: what Stripe has of subscriptions and invoices, beside what the tables have (behaviours.md D7).

A list is a moment's picture. What differs is looked at again a little later: an event of the last seconds may have been
on its way, and a row that has become newer than the list is right by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr, ValidationError

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.reconcile.events import append
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.refetch import refetched_event
from schemas.stripe.invoice import StripeInvoice
from schemas.stripe.subscription import StripeSubscription
from sinks.postgres.failures import classified
from sinks.postgres.pool import CONNECT_TIMEOUT_S, SessionTimeouts, dsn
from sinks.stripe_api.api import ApiTrouble
from sinks.stripe_api.listing import Listed, Lists, Page

_SUBSCRIPTIONS = """
SELECT subscription_id AS id, customer_id, status, price_id, current_period_end, cancel_at_period_end, version
FROM billing.subscriptions WHERE account = $1 AND subscription_id = ANY($2::text[])
"""
_INVOICES = """
SELECT invoice_id AS id, status IN ('succeeded', 'refunded') AS paid, amount, currency, version
FROM billing.payments WHERE account = $1 AND invoice_id = ANY($2::text[])
"""
MOST = 1000
"""Drifting objects that are looked for at once."""

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drift:
    """One object; `fields` by name: what Stripe has, what the table has. `missing`: the table has no such row."""

    kind: str
    account: str
    id: str
    fields: dict[str, tuple[Any, Any]]
    missing: bool
    repairable: bool
    stripe: Listed = field(repr=False)
    page: Page = field(repr=False)
    """Without its items."""


@dataclass(slots=True)
class DriftReport:
    """One account's."""

    account: str
    compared: Counter[str] = field(default_factory=Counter)
    """Objects by kind."""
    unreadable: int = 0
    drifts: list[Drift] = field(default_factory=list)
    queued: int = 0
    is_cut: bool = False
    """Whether there may be more than MOST."""
    trouble: str | None = None

    @property
    def by_field(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for drift in self.drifts:
            found.update(["missing"] if drift.missing else drift.fields)
        return dict(found)


class ObjectComparison:
    """Reads both sides. Not for concurrent use."""

    def __init__(self, lists: Lists, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._lists = lists
        self._connection = connection

    @classmethod
    async def connect(cls, lists: Lists, url: SecretStr) -> ObjectComparison:
        """Raises StoreUnavailable, InvalidSettings."""
        bounds = SessionTimeouts()
        with classified():
            connection = await asyncpg.connect(
                dsn(url),
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=bounds.client_s,
                server_settings=bounds.server_settings("billing-reconcile"),
            )
        return cls(lists, connection)

    def close(self) -> None:
        self._connection.terminate()

    async def drift(self, account: str, since: datetime, *, settle_s: float) -> DriftReport:
        """All subscriptions, and the invoices created since. Raises StoreUnavailable; Stripe's trouble is told."""
        report = DriftReport(account)
        try:
            async with aclosing(self._drifting(account, since, report)) as drifting:
                async for drift in drifting:
                    report.drifts.append(drift)
                    if len(report.drifts) >= MOST:
                        report.is_cut = True
                        break
        except ApiTrouble as error:
            report.trouble = f"{type(error).__name__}: {error}"
        if report.drifts and settle_s:
            await asyncio.sleep(settle_s)
        report.drifts = [drift for drift in report.drifts if not await self._has_settled(drift)]
        return report

    async def _drifting(self, account: str, since: datetime, report: DriftReport) -> AsyncGenerator[Drift]:
        for kind, path, params in (
            ("subscription", "/v1/subscriptions", {"status": "all"}),
            ("invoice", "/v1/invoices", {"created": {"gte": int(since.timestamp())}}),
        ):
            async for page in self._lists.pages(path, params, account):
                rows = await self._rows(kind, account, [item.id for item in page.items])
                for item in page.items:
                    report.compared[kind] += 1
                    try:
                        drift = _compared(kind, account, item, page, rows.get(item.id))
                    except ValidationError:
                        report.unreadable += 1
                        continue
                    if drift is not None:
                        yield drift

    async def _rows(self, kind: str, account: str, ids: Sequence[str]) -> dict[str, Facts]:
        query = _SUBSCRIPTIONS if kind == "subscription" else _INVOICES
        with classified():
            return {row["id"]: dict(row) for row in await self._connection.fetch(query, account, list(ids))}

    async def _has_settled(self, drift: Drift) -> bool:
        row = (await self._rows(drift.kind, drift.account, [drift.id])).get(drift.id)
        if _compared(drift.kind, drift.account, drift.stripe, drift.page, row) is None:
            return True
        # `created` of the newest event behind the row, see schemas/version.py.
        return row is not None and _created(row["version"]) >= int(drift.page.as_of.timestamp())


def _created(version: str) -> int:
    return int(version.split(":")[1]) if version else 0


def _compared(kind: str, account: str, item: Listed, page: Page, row: Facts | None) -> Drift | None:
    if kind == "subscription":
        told = StripeSubscription.model_validate(item.object)
        theirs: Facts = {
            "customer_id": told.customer,
            "status": str(told.status),
            "price_id": told.price_id,
            "current_period_end": told.current_period_end,
            "cancel_at_period_end": told.cancel_at_period_end,
        }
        repairable = True
    else:
        invoice = StripeInvoice.model_validate(item.object)
        is_paid = item.object.get("status") == "paid" or item.object.get("paid") is True
        if not is_paid and (row is None or not row["paid"]):
            return None  # what is not paid yet need not be known yet
        theirs = {"paid": is_paid}
        if is_paid:
            theirs |= {"amount": invoice.paid_amount, "currency": invoice.currency}
        repairable = is_paid and _paid_at(item) is not None  # no event of Stripe's takes a payment back
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
    """Puts what Stripe has onto the log, as events (schemas/refetch.py); how many. Raises LogUnavailable.

    A subscription as it was when it was listed. An invoice as of when it was paid: as of now it would overrule what the
    subscription has been through since.
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
    headers = RecordHeaders(
        event_id=event["id"],
        type=event["type"],
        source=Source.RECONCILE,
        account=drift.account,
        livemode=livemode,
        api_version=page.api_version or "",
        endpoint="",
        received_at=now.isoformat(timespec="microseconds"),
    )
    return Entry(ordering_key(event).encode(), orjson.dumps(event), headers.encode())
