"""What follows from the facts of a payment's row (its status, its totals), and how two rows become one.

Each fact is a maximum, a minimum or a union, so that two rows can be joined in any order, and an event has the same
result before and after. `derived` computes the other columns from the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from schemas.fast_row import replace
from schemas.state import Payment
from schemas.statuses import LinkKind, PaymentStatus
from schemas.stripe.dispute import CLOSED, LOST
from schemas.version import UNSEEN

PAID = frozenset({PaymentStatus.SUCCEEDED, PaymentStatus.REFUNDED, PaymentStatus.LOST})
"""Statuses of a payment that was made. It stays made, whatever happens to the money later."""

_KINDS = tuple(LinkKind)
_FAILED, _TERMINAL = "0", "1"
"""First characters of versions (schemas/version.py) that an event of a failed and of a successful payment writes."""


def payment_id_of(account: str, ids: Mapping[str, LinkKind]) -> str:
    """Returns the payment's id: derived from its invoice, else its session, else its first intent, else its charge."""
    return Payment.id_of(account, min(ids, key=lambda stripe_id: (_KINDS.index(ids[stripe_id]), stripe_id)))


def ids_of(row: Payment) -> dict[str, LinkKind]:
    """Returns the Stripe ids in the row itself, with their kinds."""
    named = (row.invoice_id, row.checkout_session_id, row.payment_intent_id, row.charge_id)
    return {stripe_id: kind for stripe_id, kind in zip(named, _KINDS, strict=True) if stripe_id}


def with_ids(row: Payment, ids: Mapping[str, LinkKind]) -> Payment:
    """Returns the row with the id and the columns that follow from these Stripe ids."""

    def first(kind: LinkKind) -> str | None:
        return min((stripe_id for stripe_id, its_kind in ids.items() if its_kind is kind), default=None)

    return replace(
        row,
        payment_id=payment_id_of(row.account, ids),
        invoice_id=first(LinkKind.INVOICE),
        checkout_session_id=first(LinkKind.SESSION),
        payment_intent_id=first(LinkKind.INTENT),
        charge_id=first(LinkKind.CHARGE),
    )


def derived(row: Payment) -> Payment:
    """Returns the row with every column that follows from the others."""
    disputes = {**row.open_disputes, **row.disputes}  # before r0013 only the open ones were stored
    open_disputes = {id_: status for id_, status in disputes.items() if status not in CLOSED}
    refunded_amount = given_back(row.refunds)
    status = _status(row, disputes, refunded_amount)
    is_paid = status in PAID
    amount, remaining = (row.amount, 0) if row.version[:1] == _TERMINAL else _owed(row)
    is_open = not is_paid and status is not PaymentStatus.CLOSED
    return replace(
        row,
        status=status,
        amount=amount,
        amount_remaining=remaining if is_open or remaining is None else 0,
        refunded_amount=refunded_amount,
        disputes=disputes,
        open_disputes=open_disputes,
        on_hold=bool(open_disputes),
        failure_reason=None if is_paid else row.failure_reason,
        failure_version=UNSEEN if is_paid else row.failure_version,
        recovered_by=_last_step(row) if is_paid else None,
        lost_at=None if is_paid else earliest(row.lost_at, row.closed_at),
    )


def joined(rows: Sequence[Payment]) -> Payment:
    """Returns one row with the facts of all rows (at least one). Its id and `derived` columns are not yet computed."""
    row, *others = sorted(rows, key=lambda row: (row.version, row.payment_id), reverse=True)
    if not others:
        return row
    newest_failure = max(rows, key=lambda row: row.failure_version)
    return replace(
        row,
        customer_id=_first(row.customer_id for row in rows),
        subscription_id=_first(row.subscription_id for row in rows),
        currency=row.currency or _first(row.currency or None for row in rows) or "",
        status=next((row.status for row in rows if row.status in PAID), row.status),
        failure_reason=newest_failure.failure_reason,
        failure_version=newest_failure.failure_version,
        attempt_count=max(row.attempt_count for row in rows),
        first_failed_at=earliest(*(row.first_failed_at for row in rows)),
        closed_at=earliest(*(row.closed_at for row in rows)),
        lost_at=earliest(*(row.lost_at for row in rows)),
        fulfilled_at=earliest(*(row.fulfilled_at for row in rows)),
        dunning_steps=earliest_steps(*(row.dunning_steps for row in rows)),
        owed=max((row.owed for row in rows), key=lambda owed: owed.get("version", "")),
        credits=_union((row.credits for row in rows), lambda entry: entry["version"]),
        refunds=_union((row.refunds for row in rows), order_of_refund),
        disputes={id_: status for row in rows for id_, status in {**row.open_disputes, **row.disputes}.items()},
        open_disputes={},
    )


def earliest(*moments: datetime | None) -> datetime | None:
    """Returns the earliest of the times that are known; None if none is."""
    return min((moment for moment in moments if moment is not None), default=None)


def earliest_steps(*steps: Mapping[str, str]) -> dict[str, str]:
    """Returns the dunning steps of all, each with its earliest time. All times have the same form (ISO 8601 in UTC)."""
    found: dict[str, str] = {}
    for part in steps:
        for template, at in part.items():
            found[template] = min(found.get(template, at), at)
    return found


def given_back(refunds: Mapping[str, Any]) -> int:
    """Returns the refunded amount in minor units, computed from `Payment.refunds`: the sum over its charges."""
    return sum(given_back_of_charges(refunds).values())


def given_back_of_charges(refunds: Mapping[str, Any]) -> dict[str | None, int]:
    """Returns the refunded amount by charge, in minor units.

        refunds        the sum of a charge's refunds that are not lost
        charge total   the newest sum of the charge, minus refunds lost since (only the refund's events report a loss)
        refunded       the greater of the two, because either may be incomplete

    A refund that does not name its charge belongs to the only charge; if there are several, its charge is None.
    """
    parts: dict[str | None, list[Mapping[str, Any]]] = {}
    totals = {id_: entry for id_, entry in refunds.items() if "version" not in entry}
    named = [entry for entry in refunds.values() if "version" in entry]
    charges = set(totals) | {part["charge"] for part in named if part.get("charge")}
    only = next(iter(charges)) if len(charges) == 1 else None
    for part in named:
        parts.setdefault(part.get("charge") or only, []).append(part)
    return {charge: _given_back(totals.get(charge or ""), parts.get(charge, [])) for charge in {*charges, *parts}}


def order_of_refund(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """The order of the entries of one refund or charge.

    A refund that is lost stays lost. Of several entries that say so, the earliest counts: it is nearest to the loss,
    and each sum of the charge from then on is without the refund, however often the refund is updated later.
    Of two sums in one second, one that was read is the later (it has all of that second), then the greater one.
    """
    if "version" in entry:
        seconds = _seconds(entry["version"])
        return (entry["lost"], -seconds if entry["lost"] else seconds, entry["version"])
    return (entry["created"], "read" in entry, entry["refunded"])


def _given_back(total: Mapping[str, Any] | None, parts: Sequence[Mapping[str, Any]]) -> int:
    kept: int = sum(part["amount"] for part in parts if not part["lost"])
    if total is None:
        return kept
    # A refund lost in the second of the sum is part of the sum: Stripe creates a refund before it fails. A sum that was
    # read has no refund that was lost by then. Its time is when the request was sent: a refund lost before the answer
    # has its loss from the same answer, and so that time too.
    since = total["created"] + ("read" in total)
    lost: int = sum(part["amount"] for part in parts if part["lost"] and _seconds(part["version"]) >= since)
    so_far: int = total["refunded"]
    return max(so_far - lost, kept)


def _status(row: Payment, disputes: Mapping[str, str], refunded_amount: int) -> PaymentStatus:
    """Only a payment that was made can be refunded or disputed, even if the refund failed.

    A part of an open invoice can be, too: the invoice is still owed. One of a closed invoice does not pay it.
    """
    is_paid = row.version[:1] == _TERMINAL
    if is_paid or ((row.status in PAID or row.refunds or disputes) and not _is_open_invoice(row)):
        if LOST in disputes.values():
            return PaymentStatus.LOST
        if refunded_amount > 0:
            return PaymentStatus.REFUNDED
        if is_paid or row.closed_at is None:
            return PaymentStatus.SUCCEEDED
    if row.closed_at is not None:
        return PaymentStatus.CLOSED
    return PaymentStatus.FAILED if row.version[:1] == _FAILED else PaymentStatus.PENDING


def _is_open_invoice(row: Payment) -> bool:
    """Whether the newest known state of the row's invoice asks for money, and no event has paid or closed it."""
    return row.invoice_id is not None and bool(row.owed.get("remaining")) and row.closed_at is None


def _owed(row: Payment) -> tuple[int, int | None]:
    """Returns an unpaid payment's amount, and what remains to pay of an invoice: its newest state and later credits."""
    if not row.owed:
        return row.amount, None
    later = sum(_change_by(credit, row.owed["at"]) for credit in row.credits.values())
    return max(0, row.owed["due"] + later), max(0, row.owed["remaining"] + later)


def _change_by(credit: Mapping[str, Any], at: int) -> int:
    """Returns how much a credit note changes what the invoice owed at that time (epoch seconds)."""
    amount: int = credit["amount"]
    if credit["created"] > at:
        return 0 if credit["voided"] is not None else -amount
    return amount if credit["voided"] is not None and credit["voided"] > at else 0


def _last_step(row: Payment) -> str | None:
    """Returns the last dunning step before the payment."""
    if row.paid_at is None:
        return None
    before = [(at, name) for name, at in row.dunning_steps.items() if datetime.fromisoformat(at) <= row.paid_at]
    return max(before)[1] if before else None


def _union(parts: Iterable[Mapping[str, Any]], order: Any) -> dict[str, Any]:
    """Returns the entries of all parts: of several with one key, the greatest in this order."""
    found: dict[str, Any] = {}
    for part in parts:
        for key, entry in part.items():
            if key not in found or order(entry) > order(found[key]):
                found[key] = entry
    return found


def _first(values: Iterable[str | None]) -> str | None:
    return min((value for value in values if value is not None), default=None)


def _seconds(version: str) -> int:
    return int(version.split(":", 3)[1])
