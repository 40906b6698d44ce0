"""Finds the payment that an event is about, and joins what turns out to be one payment (behaviours.md C14).

    until basil   a charge and an intent name their invoice
    since basil   an intent's `order_reference` may; `invoice_payment.paid` links an intent (or a charge) to the invoice
    always        a checkout session names its intent and, once there is one, its invoice; a charge names its intent

The ids that one event names are one payment. They are linked to it (schemas/state.py, PaymentLink), also before it has
a row; rows and links that were apart until then are joined. So every order of events has the same result.

An event that names only a charge or an intent looks the row up by them; if there is none yet, the event waits
(behaviours.md D3). If there is still none at the limit, the payment is loose: it has neither an invoice nor a checkout
and was made by the API or by hand. Its refund or dispute creates the row then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.effects import Effect
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.payment_match import Ids, Match, match
from schemas.references import Ref
from schemas.state import Payment
from schemas.statuses import LinkKind, PaymentStatus
from schemas.stripe.charge import StripeCharge
from streams.rules.precedence import weak

__all__ = ["Ids", "Match", "is_loose", "match", "named", "of_charge", "of_payment", "priced", "refs"]


def named(
    *,
    invoice: str | None = None,
    session: str | None = None,
    intents: tuple[str | None, ...] = (),
    charges: tuple[str | None, ...] = (),
) -> dict[str, LinkKind]:
    """Returns the ids that an event names, without those that it leaves open."""
    all_ = (
        (LinkKind.INVOICE, (invoice,)),
        (LinkKind.SESSION, (session,)),
        (LinkKind.INTENT, intents),
        (LinkKind.CHARGE, charges),
    )
    return {stripe_id: kind for kind, ids in all_ for stripe_id in ids if stripe_id}


def refs(account: str, ids: Ids) -> set[Ref]:
    """Returns the ids in the form of `References.payments`."""
    return {(account, stripe_id) for stripe_id in ids}


def of_payment(found: Match, currency: str, decide: Callable[[Payment], list[Effect]]) -> list[Effect]:
    """Calls `decide` with the payment. Raises NotKnownYet with the effects for a loose payment as `at_last`."""
    if found.row is not None:
        return decide(found.row)
    # Only a successful charge can be refunded or disputed.
    loose = replace(found.row_or_blank, currency=currency, status=PaymentStatus.SUCCEEDED)
    raise NotKnownYet(f"the payment of {' or '.join(found.ids)}", decide(loose))


def is_loose(row: Payment) -> bool:
    """Whether the payment has neither an invoice nor a checkout."""
    return row.invoice_id is None and row.checkout_session_id is None


def of_charge(row: Payment, event: Event[Any], charge: StripeCharge) -> Payment:
    """The row with the customer and the amount from the charge."""
    row = replace(row, customer_id=row.customer_id or charge.customer)
    return priced(row, event, charge.amount, charge.currency)


def priced(row: Payment, event: Event[Any], amount: int, currency: str) -> Payment:
    """The row with the amount from a charge or an intent. The invoice's own events overrule it."""
    new_version = weak(event.version)
    if new_version <= row.version:
        return row
    return replace(row, amount=amount, currency=currency, version=new_version)
