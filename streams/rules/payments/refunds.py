"""The rules for `refund.*` and `charge.refund.updated` (behaviours.md C8)."""

from __future__ import annotations

from schemas.effects import Effect, Save
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Payment
from schemas.stripe.refund import StripeRefund
from streams.rules.payments.matching import link_payment_ids, of_payment, refs
from streams.rules.payments.refund_total import REFUND_FAILED, apply_refund
from streams.rules.payments.stream import stream

RefundEvent = Event[StripeRefund]


def refer(event: RefundEvent) -> References:
    return References(payments=refs(event.account, event.object.charge, event.object.payment_intent))


@stream.on("refund.created", model=StripeRefund, refer=refer, rank=20)
@stream.on("charge.refund.updated", model=StripeRefund, refer=refer, rank=49)
@stream.on("refund.updated", model=StripeRefund, refer=refer, rank=50)
@stream.on(REFUND_FAILED, model=StripeRefund, refer=refer, rank=60)
def on_refund(event: RefundEvent, known: Known) -> list[Effect]:
    """Applies a refund to its payment. A refund without charge and intent returns a cash balance and has no payment."""
    refund = event.object
    if refund.charge is None and refund.payment_intent is None:
        return []

    def apply_to(before: Payment) -> list[Effect]:
        after = apply_refund(link_payment_ids(before, charge=refund.charge), event)
        return [] if after == before else [Save(after)]

    return of_payment(known, event.account, refund.charge, refund.payment_intent, refund.currency, apply_to)
