"""Inside the rules: which payment a charge, an intent, a refund or a dispute is about.

    until basil   a charge and an intent name their invoice
    since basil   an intent's `order_reference` may; `invoice_payment.paid` links an intent (or a charge) to the invoice

What names an invoice makes the payment's row if it comes first. What names only a charge or an intent finds the row by
them: where there is none yet, the event waits (behaviours.md D3). None by the limit means that it is loose: of neither
an invoice nor a checkout, made by the API or by hand. What was given back of it, or is disputed, makes its row then.

An invoice paid in several parts is linked to the first part that is heard of; refunds of the others end as loose ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.effects import Effect, SavePayment
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.references import Ref
from schemas.state import Payment, PaymentStatus
from streams.rules.precedence import weak


def refs(account: str, *stripe_ids: str | None) -> set[Ref]:
    """As `References.payments` has them."""
    return {(account, stripe_id) for stripe_id in stripe_ids if stripe_id}


def find(known: Known, account: str, *stripe_ids: str | None) -> Payment | None:
    """The payment that the first of these ids to be known belongs to."""
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
    """What `decide` makes of the payment. Raises NotKnownYet, with what it makes of a loose one for the limit."""
    row = find(known, account, charge, payment_intent)
    if row is not None:
        return decide(row)
    names = [name for name in (charge, payment_intent) if name]
    # Only what was charged is given back or disputed, so it had succeeded.
    loose = Payment(
        payment_id=Payment.id_of(account, names[-1]),
        account=account,
        charge_id=charge,
        payment_intent_id=payment_intent,
        currency=currency,
        status=PaymentStatus.SUCCEEDED,
    )
    raise NotKnownYet(f"the payment of {' or '.join(names)}", [SavePayment(loose), *decide(loose)])


def is_loose(row: Payment) -> bool:
    """Whether it is neither an invoice's nor a checkout's."""
    return row.invoice_id is None and row.checkout_session_id is None


def link_payment_ids(
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
    word = weak(event.version)
    if word <= row.version:
        return row
    return replace(row, amount=amount, currency=currency, version=word)
