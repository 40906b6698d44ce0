"""Finds the customers whose plan, limits or access the config derives differently from what is stored (F6).

Customers are read page by page by primary key, without locks, so any number fits. Those that differ get an event on the
log, and the worker derives their rows again: in the order of all their other events.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from eventlog.append import EventAppender
from eventlog.entry import Entry
from schemas.plans import plans_event
from schemas.record import Source
from schemas.settings import Config, Settings
from schemas.state import Customer, Organization, Subscription
from sinks.postgres.failures import classified
from sinks.postgres.loading import SHAPES
from sinks.postgres.pool import connect
from streams.rules.customers.organization import derive_organization
from streams.rules.subscription_row import ENDED, rederived

PAGE = 500
"""Customers per page, and events per append."""

_AFTER = "(t.account, t.customer_id) > ($1, $2)"
_CUSTOMERS = (
    f"SELECT {SHAPES[Customer].selected} FROM billing.customers AS t WHERE {_AFTER} "  # noqa: S608  # only constant names
    "ORDER BY t.account, t.customer_id LIMIT $3"
)
_WITHIN = "(t.account, t.customer_id) > ($1, $2) AND (t.account, t.customer_id) <= ($3, $4)"
_SUBSCRIPTIONS = f"SELECT {SHAPES[Subscription].selected} FROM billing.subscriptions AS t WHERE {_WITHIN}"  # noqa: S608  # as above
_ORGANIZATIONS = f"SELECT {SHAPES[Organization].selected} FROM billing.organizations AS t WHERE {_WITHIN}"  # noqa: S608  # as above
_COUNT = "SELECT count(*) FROM billing.customers"

_SHOWN = ("plan", "has_access", "access_reason", "limits", "access_until", "access_after", "access_changes_at")
"""Columns of an organization whose changes are reported by name. A limit has a line of its own."""


@dataclass(slots=True)
class PlansReport:
    """What a comparison found. `queued` is the number of customers with an event on the log."""

    customers: int = 0
    """Customers with a subscription."""
    plans: Counter[str] = field(default_factory=Counter)
    """Customers by the plan that the config gives them; '' for none that it knows."""
    differing: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    """Customers by what would change: `pro: limits.seats 50 → 80`."""
    unknown_prices: Counter[str] = field(default_factory=Counter)
    """Customers by the price of a running subscription that no plan names."""
    unused_prices: list[str] = field(default_factory=list)
    """Prices of the config that no running subscription has."""
    queued: int = 0

    def plain(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {
            "customers": self.customers,
            "plans": dict(self.plans),
            "differing": self.differing,
            "changes": dict(self.changes),
            "unknown_prices": dict(self.unknown_prices),
            "unused_prices": self.unused_prices,
            "queued": self.queued,
        }


@dataclass(frozen=True, slots=True)
class _Kept:
    customer: Customer
    subscriptions: list[Subscription]
    organization: Organization | None


@dataclass(slots=True)
class PlansComparison:
    """Compares and, if `event_log` is given, appends. Not for concurrent use."""

    config: Config
    connection: asyncpg.Connection[asyncpg.Record]
    event_log: EventAppender | None
    clock: Callable[[], datetime]

    async def run(self, say: Callable[[int, int | None], None]) -> PlansReport:
        """Raises StoreUnavailable, LogUnavailable. `say` gets the customers read and their number."""
        report, used, read = PlansReport(), set[str](), 0
        with classified():
            total = int(await self.connection.fetchval(_COUNT))
        async for page in self._pages():
            differing = [kept for kept in page if self._differs(kept, report, used)]
            read += len(page)
            if self.event_log is not None and differing:
                await self.event_log.append(self._entries(differing))
                report.queued += len(differing)
            say(read, max(total, read))
        named = [price for plan in self.config.plans.values() for price in plan.prices]
        report.unused_prices = [price for price in named if price not in used]
        return report

    async def _pages(self) -> AsyncIterator[list[_Kept]]:
        after = ("", "")
        while True:
            with classified():
                customers = _read(Customer, await self.connection.fetch(_CUSTOMERS, *after, PAGE))
                if not customers:
                    return
                last = (customers[-1].account, customers[-1].customer_id)
                subscriptions = _read(Subscription, await self.connection.fetch(_SUBSCRIPTIONS, *after, *last))
                organizations = _read(Organization, await self.connection.fetch(_ORGANIZATIONS, *after, *last))
            by_customer: dict[tuple[str, str], list[Subscription]] = defaultdict(list)
            for row in sorted(subscriptions, key=lambda row: row.key):
                by_customer[row.account, row.customer_id].append(row)
            stored = {(row.account, row.customer_id): row for row in organizations}
            yield [
                _Kept(row, by_customer[key], stored.get(key)) for row in customers if (key := _id(row)) in by_customer
            ]
            after = last

    def _differs(self, kept: _Kept, report: PlansReport, used: set[str]) -> bool:
        rows = [rederived(row, self.config) for row in kept.subscriptions]
        organization = derive_organization(self.config, kept.customer, rows)
        report.customers += 1
        report.plans[organization.plan or ""] += 1
        running = [row for row in rows if row.status not in ENDED]
        used.update(item["price"] for row in running for item in row.items if item["price"] is not None)
        used.update(row.price_id for row in running if row.price_id is not None)
        report.unknown_prices.update({row.price_id for row in running if row.plan is None and row.price_id is not None})
        if rows == kept.subscriptions and organization == kept.organization:
            return False
        report.differing += 1
        report.changes.update(_changes(kept.organization, organization) or {f"{organization.plan}: subscriptions"})
        return True

    def _entries(self, differing: Iterable[_Kept]) -> list[Entry]:
        at, livemode = self.clock(), self.config.mode.livemode
        return [
            Entry.of(
                plans_event(account, customer_id, at=at, livemode=livemode),
                source=Source.OPERATOR,
                received_at=at,
                livemode=livemode,
                account=account,
            )
            for account, customer_id in (_id(kept.customer) for kept in differing)
        ]


def _changes(before: Organization | None, after: Organization) -> set[str]:
    """Returns a line for each change, without ids, so that equal changes can be counted."""
    if before is None:
        return {f"{after.plan}: no organization → has one"}
    if before.plan != after.plan:
        return {f"{before.plan or 'no known plan'} → {after.plan or 'no known plan'}"}
    found = set()
    for name in sorted({*before.limits, *after.limits}):
        was, is_ = before.limits.get(name, "none"), after.limits.get(name, "none")
        if was != is_:
            found.add(f"{after.plan}: limits.{name} {was} → {is_}")
    for name in _SHOWN:
        if name not in ("plan", "limits") and getattr(before, name) != getattr(after, name):
            found.add(f"{after.plan}: {name}")
    return found


def _id(row: Customer) -> tuple[str, str]:
    return row.account, row.customer_id


def _read(kind: type[Any], records: Sequence[asyncpg.Record]) -> list[Any]:
    return [SHAPES[kind].row(record) for record in records]


@asynccontextmanager
async def comparison(
    settings: Settings, config: Config, *, appends: bool, clock: Callable[[], datetime]
) -> AsyncIterator[PlansComparison]:
    """Yields the comparison of the settings' database. Raises StoreUnavailable, InvalidSettings."""
    event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-plans") if appends else None
    try:
        connection = await connect(settings.database_url, application="billing-plans")
        try:
            yield PlansComparison(config, connection, event_log, clock)
        finally:
            connection.terminate()
    finally:
        if event_log is not None:
            await asyncio.to_thread(event_log.close)
