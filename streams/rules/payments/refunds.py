"""The rules for `refund.*` and `charge.refund.updated` (behaviours.md C8)."""

from __future__ import annotations

from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Payment
from schemas.statuses import LinkKind
from schemas.stripe.refund import StripeRefund
from streams.rules.payments.matching import is_loose, match, named, of_charge, of_payment, refs
from streams.rules.payments.refund_total import REFUND_FAILED, apply_refund
from streams.rules.payments.stream import stream

RefundEvent = Event[StripeRefund]

_TRANSFERRED = "py_"
"""Ids of charges without a card: also of the money that a platform's transfer brings to a connected account."""


def _ids(refund: StripeRefund) -> dict[str, LinkKind]:
    return named(intents=(refund.payment_intent,), charges=(refund.charge,))


def refer(event: RefundEvent) -> References:
    return References(payments=refs(event.account, _ids(event.object)))


@stream.on("refund.created", model=StripeRefund, refer=refer, rank=20)
@stream.on("charge.refund.updated", model=StripeRefund, refer=refer, rank=49)
@stream.on("refund.updated", model=StripeRefund, refer=refer, rank=50)
@stream.on(REFUND_FAILED, model=StripeRefund, refer=refer, rank=60)
def on_refund(event: RefundEvent, known: Known) -> list[Effect]:
    """Applies a refund to its payment. A refund without charge and intent returns a cash balance and has no payment."""
    refund = event.object
    if refund.charge is None and refund.payment_intent is None:
        return []
    if event.account and refund.payment_intent is None and (refund.charge or "").startswith(_TRANSFERRED):
        return []  # the other side of a transfer that was reversed
    charge = refund.charge_read
    if charge is not None and charge.source_transfer is not None:
        return []  # as above
    found = match(known, event.account, _ids(refund))

    def apply_to(row: Payment) -> list[Effect]:
        if charge is not None and is_loose(row):
            row = of_charge(row, event, charge)
        return found.save(apply_refund(row, event))

    return of_payment(found, refund.currency, apply_to)
