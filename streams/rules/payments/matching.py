"""Finds the payment that a charge, an intent, a refund or a dispute belongs to.

    until basil   a charge and an intent name their invoice
    since basil   an intent's `order_reference` may; `invoice_payment.paid` links an intent (or a charge) to the invoice

An event that names an invoice creates the payment's row if it is first. An event that names only a charge or an intent
looks the row up by them; if there is none yet, the event waits (behaviours.md D3). If there is still none at the limit,
the payment is loose: it has neither an invoice nor a checkout and was made by the API or by hand. Its refund or dispute
creates the row then.

An invoice paid in several parts is linked to the first part received; refunds of the other parts become loose payments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.effects import Effect, Save
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.references import Ref
from schemas.state import Payment, PaymentStatus
from streams.rules.precedence import weak


def refs(account: str, *stripe_ids: str | None) -> set[Ref]:
    """Returns the ids in the form of `References.payments`."""
    return {(account, stripe_id) for stripe_id in stripe_ids if stripe_id}


def find(known: Known, account: str, *stripe_ids: str | None) -> Payment | None:
    """Returns the payment of the first of these ids that is known."""
    found = (known.payment(account, stripe_id) for stripe_id in stripe_ids if stripe_id)
    return next((row for row in found if row is not None), None)


def of_payment(
    known: Known,
    account: str,
    charge: str | None,
    payment_intent: str | None,
    currency: str,
    decide: Callable[[Payment], list[Effect]],
) -> list[Effect]:
    """Calls `decide` with the payment. Raises NotKnownYet with the effects for a loose payment as `at_last`."""
    row = find(known, account, charge, payment_intent)
    if row is not None:
        return decide(row)
    names = [name for name in (charge, payment_intent) if name]
    # Only a successful charge can be refunded or disputed.
    loose = Payment(
        payment_id=Payment.id_of(account, names[-1]),
        account=account,
        charge_id=charge,
        payment_intent_id=payment_intent,
        currency=currency,
        status=PaymentStatus.SUCCEEDED,
    )
    raise NotKnownYet(f"the payment of {' or '.join(names)}", [Save(loose), *decide(loose)])


def is_loose(row: Payment) -> bool:
    """Whether the payment has neither an invoice nor a checkout."""
    return row.invoice_id is None and row.checkout_session_id is None


def link_payment_ids(
    row: Payment,
    *,
    invoice: str | None = None,
    charge: str | None = None,
    payment_intent: str | None = None,
    customer: str | None = None,
) -> Payment:
    """The row with missing ids filled in; existing ids stay."""
    return replace(
        row,
        invoice_id=row.invoice_id or invoice,
        charge_id=row.charge_id or charge,
        payment_intent_id=row.payment_intent_id or payment_intent,
        customer_id=row.customer_id or customer,
    )


def priced(row: Payment, event: Event[Any], amount: int, currency: str) -> Payment:
    """The row with the amount from a charge or an intent. The invoice's own events overrule it."""
    new_version = weak(event.version)
    if new_version <= row.version:
        return row
    return replace(row, amount=amount, currency=currency, version=new_version)
