"""Inside the rules: which payment a charge, an intent, a refund or a dispute is about.

    until basil   a charge and an intent name their invoice
    since basil   an intent's `order_reference` may; `invoice_payment.paid` links an intent (or a charge) to the invoice

What names an invoice makes the payment's row if it comes first. What names only a charge or an intent finds the row by
them: where there is none yet, the event waits (behaviours.md D3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.known import Known
from schemas.references import Ref
from schemas.state import Payment
from streams.rules.precedence import hint


def refs(account: str, *stripe_ids: str | None) -> set[Ref]:
    """As `References.payments` has them."""
    return {(account, stripe_id) for stripe_id in stripe_ids if stripe_id}


def find(known: Known, account: str, *stripe_ids: str | None) -> Payment | None:
    """The payment that the first of these ids to be known belongs to."""
    found = (known.payment(account, stripe_id) for stripe_id in stripe_ids if stripe_id)
    return next((row for row in found if row is not None), None)


def find_or_wait(known: Known, account: str, *stripe_ids: str | None) -> Payment:
    """The same. Raises NotKnownYet."""
    row = find(known, account, *stripe_ids)
    if row is None:
        raise NotKnownYet(f"the payment of {' or '.join(filter(None, stripe_ids))}")
    return row


def linked(
    row: Payment,
    *,
    invoice: str | None = None,
    charge: str | None = None,
    payment_intent: str | None = None,
    customer: str | None = None,
) -> Payment:
    """The row with the ids that it lacks."""
    return replace(
        row,
        invoice_id=row.invoice_id or invoice,
        charge_id=row.charge_id or charge,
        payment_intent_id=row.payment_intent_id or payment_intent,
        customer_id=row.customer_id or customer,
    )


def priced(row: Payment, event: Event[Any], amount: int, currency: str) -> Payment:
    """The row with the amount that a charge or an intent names, until the invoice itself says it."""
    word = hint(event.version)
    if word <= row.version:
        return row
    return replace(row, amount=amount, currency=currency, version=word)
