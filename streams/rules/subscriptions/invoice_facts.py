"""Keeps what a subscription's invoices say about its payment (behaviours.md C1, C2).

The column `invoices` has one entry per invoice: `reason` and `created`, then `paid` or `closed` (the version of the
event), or the facts of its failures: `failed` (version of the newest), `first` and `last` (ISO 8601), `attempts`, and
`due` (ISO 8601) if the customer pays it by hand. Paid beats closed, and closed beats failed, in any order of events.
With each of them: `written_off`, the version of the event, if the invoice was marked uncollectible.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.event import Event
from schemas.recovery_facts import has_recovered_from
from schemas.state import Subscription
from schemas.stripe.invoice import FIRST_INVOICE, SEND_INVOICE, StripeInvoice

MOST = 24
"""Maximum number of entries; the latest invoice and the newest others are kept."""

UPDATE_INVOICE = "subscription_update"
_CYCLES = frozenset({FIRST_INVOICE, "subscription_cycle", "subscription", "quote_accept", None})
"""`billing_reason` of invoices that begin a period. Old samples have none."""

Fact = Mapping[str, Any]
Facts = Mapping[str, Fact]


def paid(row: Subscription, event: Event[StripeInvoice]) -> Facts:
    """The column after the invoice was paid."""
    entry = _entry(row, event)
    best = max(entry.get("paid", ""), event.version)
    return _with(row, event, {**_named(entry), "paid": best, "bills": event.object.bills_subscription})


def closed(row: Subscription, event: Event[StripeInvoice]) -> Facts:
    """The column after the invoice was voided: nothing of it is owed."""
    entry = _entry(row, event)
    if "paid" in entry:
        return _with(row, event, entry)
    return _with(row, event, {**_named(entry), "closed": max(entry.get("closed", ""), event.version)})


def written_off(row: Subscription, event: Event[StripeInvoice]) -> Facts:
    """The column after the invoice was marked uncollectible. It can still be paid, and its failures stay."""
    entry = _entry(row, event)
    return _with(row, event, {**entry, "written_off": max(entry.get("written_off", ""), event.version)})


def failed(row: Subscription, event: Event[StripeInvoice], *, is_settled: bool) -> Facts:
    """The column after a payment of the invoice failed. `is_settled`: it is known to be paid, whatever is in here."""
    entry, invoice = _entry(row, event), event.object
    if "paid" in entry or "closed" in entry:
        return _with(row, event, entry)
    if is_settled:
        return _with(row, event, {**_named(entry), "paid": "", "bills": False})
    at = event.at.isoformat()
    is_by_hand = invoice.collection_method == SEND_INVOICE and invoice.due_date is not None
    entry = {
        **_named(entry),
        "failed": max(entry.get("failed", ""), event.version),
        "first": min(entry.get("first", at), at),
        "last": max(entry.get("last", at), at),
        "attempts": max(entry.get("attempts", 0), invoice.attempt_count),
        "due": invoice.due_date.isoformat() if is_by_hand and invoice.due_date else None,
    }
    return _with(row, event, entry)


def owed(row: Subscription) -> str | None:
    """Returns the failed invoice that is owed, the latest one first; None if no failed invoice is owed.

    Nothing is owed yet before the due date of an invoice that is paid by hand. The invoice of an update that waits for
    its payment is never owed: the update is dropped with it. Nor is the one from which the subscription has recovered.
    """
    owing = [id_ for id_, fact in row.invoices.items() if _is_owed(row, id_, fact)]
    latest = latest_of(row)
    if latest in owing:
        return latest
    return max(owing, key=lambda id_: (row.invoices[id_]["created"], id_), default=None)


def first_failed_at(row: Subscription, invoice_id: str) -> datetime:
    return datetime.fromisoformat(row.invoices[invoice_id]["first"])


def latest_failed_at(row: Subscription) -> datetime | None:
    """Returns when the latest invoice first failed, or became due; None if it is not owed."""
    latest = latest_of(row)
    return _owed_since(row.invoices[latest]) if latest is not None and owed(row) == latest else None


def failing_since(row: Subscription) -> datetime | None:
    """Returns when payments began to fail: the first failure since the last period that was paid. None without one."""
    paid_until = max((fact["created"] for fact in row.invoices.values() if "paid" in fact), default=0)
    periods = [fact for fact in row.invoices.values() if fact["reason"] in _CYCLES and fact["created"] > paid_until]
    failed = [_owed_since(fact) for id_, fact in row.invoices.items() if fact in periods and _is_owed(row, id_, fact)]
    return min(failed, default=None) or row.payment_failed_at


def latest_of(row: Subscription) -> str | None:
    """Returns the subscription's latest invoice; if Stripe has named none, the newest one that begins a period."""
    if row.latest_invoice is not None:
        return row.latest_invoice
    cycles = [id_ for id_, fact in row.invoices.items() if fact["reason"] in _CYCLES]
    return max(cycles, key=lambda id_: (row.invoices[id_]["created"], id_), default=None)


def _owed_since(fact: Fact) -> datetime:
    return datetime.fromisoformat(max(fact["first"], fact["due"] or ""))


def _is_owed(row: Subscription, id_: str, fact: Fact) -> bool:
    if "failed" not in fact or (fact["due"] is not None and fact["last"] < fact["due"]):
        return False
    if has_recovered_from(row, id_):
        return False
    return not (row.pending_update and fact["reason"] == UPDATE_INVOICE and id_ == row.latest_invoice)


def _entry(row: Subscription, event: Event[StripeInvoice]) -> Fact:
    invoice = event.object
    created = int(invoice.created.timestamp()) if invoice.created is not None else event.created
    stored = row.invoices.get(invoice.id or "", {})
    return {"reason": invoice.billing_reason, **stored, "created": min(stored.get("created", created), created)}


def _named(entry: Fact) -> dict[str, Any]:
    return {name: entry[name] for name in ("reason", "created", "written_off") if name in entry}


def _with(row: Subscription, event: Event[StripeInvoice], entry: Fact) -> Facts:
    facts = {**row.invoices, (event.object.id or ""): entry}
    if len(facts) <= MOST:
        return facts
    by_age = sorted(facts, key=lambda id_: (id_ == row.latest_invoice, facts[id_]["created"], id_))
    return {id_: facts[id_] for id_ in by_age[-MOST:]}
