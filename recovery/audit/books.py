"""Reads what the tables have about Stripe's events and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import asyncpg
import orjson

from recovery.audit.compare import PAID_STATUSES, AuditWindow
from recovery.audit.differences import Kind
from recovery.audit.runs import AuditRun
from sinks.postgres.failures import classified
from sinks.postgres.imports import covered_until

Row = Mapping[str, Any]

_LEDGER = "SELECT event_id, outcome FROM billing.events WHERE event_id = ANY($1::text[])"
_SENT = r"""
SELECT event_id, type FROM billing.events
WHERE created >= $1 AND created < $2 AND account = $3 AND livemode = $4 AND event_id LIKE 'evt\_%'
    AND NOT event_id = ANY($5::text[])
"""
_SUBSCRIPTIONS = """
SELECT subscription_id AS id, customer_id, status, items, plan, currency, current_period_start, current_period_end,
    trial_end, cancel_at, cancel_at_period_end, canceled_at, ended_at, pause_collection, checkout_plan, first_price_id
FROM billing.subscriptions WHERE account = $1 AND subscription_id = ANY($2::text[])
"""
_PAYMENT = "p.invoice_id, p.checkout_session_id, p.charge_id, p.status, p.amount, p.currency, p.paid_at, p.refunds"
_INVOICES = f"""
SELECT p.invoice_id AS id, {_PAYMENT} FROM billing.payments p
WHERE p.account = $1 AND p.invoice_id = ANY($2::text[])
"""  # noqa: S608  # only constants
_LINKED = f"""
SELECT l.stripe_id AS id, {_PAYMENT} FROM billing.payment_links l JOIN billing.payments p USING (payment_id)
WHERE l.account = $1 AND l.stripe_id = ANY($2::text[])
"""  # noqa: S608  # as above
_NOT_LISTED = (
    "NOT EXISTS (SELECT 1 FROM billing.audit_objects o WHERE o.run_id = $1 AND o.kind = '{}' AND o.object_id = {})"
)
_UNLISTED = {
    Kind.SUBSCRIPTION: f"""
SELECT s.subscription_id AS id FROM billing.subscriptions s
WHERE s.account = $2 AND $3::timestamptz < $4::timestamptz AND $5::text[] IS NOT NULL
    AND {_NOT_LISTED.format("subscription", "s.subscription_id")}
""",  # noqa: S608  # as above
    Kind.INVOICE: f"""
SELECT p.invoice_id AS id FROM billing.payments p
WHERE p.account = $2 AND p.paid_at >= $3 AND p.paid_at < $4 AND p.status = ANY($5::text[]) AND p.invoice_id IS NOT NULL
    AND {_NOT_LISTED.format("invoice", "p.invoice_id")}
""",  # noqa: S608  # as above
    Kind.REFUND: rf"""
SELECT DISTINCT r.key AS id FROM billing.payments p, jsonb_each(p.refunds) r
WHERE p.account = $2 AND p.refunds <> '{{}}' AND r.value ? 'version' AND $5::text[] IS NOT NULL
    AND split_part(r.value->>'version', ':', 2) ~ '^\d+$'
    AND to_timestamp(split_part(r.value->>'version', ':', 2)::float8) BETWEEN $3 AND $4
    AND {_NOT_LISTED.format("refund", "r.key")}
""",  # noqa: S608  # as above
}
_STORED_TWICE = """
WITH charges AS MATERIALIZED (SELECT object_id AS id FROM billing.audit_objects WHERE run_id = $1 AND kind = 'charge'),
linked AS MATERIALIZED (
    SELECT c.id, l.payment_id FROM charges c JOIN billing.payment_links l ON l.account = $2 AND l.stripe_id = c.id
), others AS MATERIALIZED (
    SELECT c.id, l.stripe_id FROM linked c JOIN billing.payment_links l USING (payment_id) WHERE l.kind <> 'charge'
), named AS (
    SELECT id, payment_id FROM linked
    UNION SELECT c.id, p.payment_id FROM charges c JOIN billing.payments p ON p.account = $2 AND p.charge_id = c.id
    UNION SELECT o.id, p.payment_id FROM others o
        JOIN billing.payments p ON p.account = $2 AND p.payment_intent_id = o.stripe_id
    UNION SELECT o.id, p.payment_id FROM others o
        JOIN billing.payments p ON p.account = $2 AND p.invoice_id = o.stripe_id
    UNION SELECT o.id, p.payment_id FROM others o
        JOIN billing.payments p ON p.account = $2 AND p.checkout_session_id = o.stripe_id
)
SELECT id, array_agg(payment_id ORDER BY payment_id) AS payments FROM named GROUP BY id HAVING count(*) > 1
"""
"""A link belongs to one payment, and a row has only the first id of each kind. So a payment is doubled if it has a link
of another payment in its row."""
_STRIPE_TOTALS = """
SELECT kind, day, currency, sum(amount)::bigint AS stripe, sum(ours)::bigint AS ours
FROM billing.audit_objects WHERE run_id = $1 AND day IS NOT NULL GROUP BY kind, day, currency
"""
_PAID = """
SELECT (paid_at AT TIME ZONE 'UTC')::date AS day, currency, sum(amount)::bigint AS ours FROM billing.payments
WHERE account = $1 AND invoice_id IS NOT NULL AND status = ANY($4::text[]) AND paid_at >= $2 AND paid_at < $3
GROUP BY 1, 2
"""
_NEWEST = """
SELECT outcome, event_id FROM billing.events
WHERE account = $1 AND customer_id = $2 AND payload->'data'->'object'->>'id' = $3 ORDER BY created DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class DayTotal:
    """The sum of one day (UTC) in one currency, in minor units, at Stripe and in the tables."""

    what: str
    day: date
    currency: str
    stripe: int
    ours: int


class AuditBooks:
    """The tables of one account. Every method raises StoreUnavailable. Not for concurrent use."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def outcomes(self, event_ids: Sequence[str]) -> dict[str, str]:
        """Return the outcome in the ledger by event id."""
        return {row["event_id"]: row["outcome"] for row in await self._fetch(_LEDGER, list(event_ids))}

    async def covered_until(self, account: str) -> datetime | None:
        """Return the time before which events need not have arrived: an import read what they changed."""
        return await covered_until(self._connection, account)

    async def unsent(
        self, account: str, start: datetime, end: datetime, sent: Sequence[str], *, livemode: bool
    ) -> dict[str, str]:
        """Return the ledger's events created in [start, end) that Stripe did not list: type by id."""
        found = await self._fetch(_SENT, start, end, account, livemode, list(sent))
        return {row["event_id"]: row["type"] for row in found}

    async def rows(self, kind: Kind, account: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
        """Return the row of each of Stripe's objects, by the object's id."""
        if kind in (Kind.SUBSCRIPTION, Kind.INVOICE):
            query = _SUBSCRIPTIONS if kind is Kind.SUBSCRIPTION else _INVOICES
            return {
                row["id"]: _decoded(row) for row in await self._fetch(query, account, [item["id"] for item in items])
            }
        links = {item["id"]: links_of(kind, item) for item in items}
        wanted = sorted({link for found in links.values() for link in found})
        linked = {row["id"]: _decoded(row) for row in await self._fetch(_LINKED, account, wanted)}
        found = {id_: next((linked[link] for link in its if link in linked), None) for id_, its in links.items()}
        return {id_: row for id_, row in found.items() if row is not None}

    async def unlisted(self, kind: Kind, run: AuditRun) -> list[str]:
        """Return the ids of rows that Stripe did not list: of payments and refunds only those of the window."""
        arguments = (run.run_id, run.account, run.window_from, run.window_until, PAID_STATUSES)
        return [row["id"] for row in await self._fetch(_UNLISTED[kind], *arguments)]

    async def stored_twice(self, run: AuditRun) -> dict[str, list[str]]:
        """Return the charges of the window of which there is more than one payment, with the ids of these payments.

        They share the charge itself, or another id of its payment: the intent, the invoice or the checkout session.
        """
        found = await self._fetch(_STORED_TWICE, run.run_id, run.account)
        return {row["id"]: row["payments"] for row in found}

    async def totals(self, run: AuditRun, window: AuditWindow) -> list[DayTotal]:
        """Return the money that was paid for invoices and that was refunded, per currency and day."""
        found: dict[tuple[str, date, str], tuple[int, int]] = {}
        for row in await self._fetch(_STRIPE_TOTALS, run.run_id):
            is_paid = row["kind"] == Kind.INVOICE
            what = "paid" if is_paid else "refunded"
            found[what, row["day"], row["currency"]] = (row["stripe"], 0 if is_paid else row["ours"])
        for row in await self._fetch(_PAID, run.account, window.start, window.end, PAID_STATUSES):
            key = ("paid", row["day"], row["currency"])
            found[key] = (found.get(key, (0, 0))[0], row["ours"])
        return [DayTotal(*key, *both) for key, both in sorted(found.items())]

    async def newest_outcome(self, account: str, customer_id: str | None, object_id: str) -> str | None:
        """Return the outcome of the newest event of this object in the ledger, None if it has none."""
        found = await self._fetch(_NEWEST, account, customer_id, object_id)
        return str(found[0]["outcome"]) if found else None

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        with classified():
            return list(await self._connection.fetch(query, *arguments))


def links_of(kind: Kind, item: Mapping[str, Any]) -> list[str]:
    """Return the ids of the charge and the payment intent by which the payment of a charge or refund is found."""
    named = (item["id"] if kind is Kind.CHARGE else item.get("charge"), item.get("payment_intent"))
    ids = [one.get("id") if isinstance(one, Mapping) else one for one in named]
    return [one for one in ids if isinstance(one, str)]


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    found = dict(row)
    for name in ("items", "refunds"):
        if isinstance(found.get(name), str):
            found[name] = orjson.loads(found[name])
    return found
