"""The rules for `payment_intent.*`: decline reasons and the link from intent to payment (behaviours.md C10)."""

from __future__ import annotations

from schemas.effects import Effect, Save
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Payment
from schemas.stripe.payment_intent import StripePaymentIntent
from streams.rules.payments.matching import link_payment_ids, priced, refs
from streams.rules.payments.row import declined, payment_of
from streams.rules.payments.stream import stream

IntentEvent = Event[StripePaymentIntent]


def refer(event: IntentEvent) -> References:
    return References(payments=refs(event.account, event.object.invoice, event.object.id))


@stream.on("payment_intent.payment_failed", model=StripePaymentIntent, refer=refer, rank=25)
def on_payment_failed(event: IntentEvent, known: Known) -> list[Effect]:
    """C10. Stores the decline reason. An intent without a known payment is only recorded in the ledger."""
    row = _payment(event, known)
    return [] if row is None else _saved(known, event, declined(row, event, event.object.failure_reason))


@stream.on("payment_intent.succeeded", model=StripePaymentIntent, refer=refer, rank=35)
def on_succeeded(event: IntentEvent, known: Known) -> list[Effect]:
    """Links the charge that succeeded. The events of the invoice or the checkout mark it as paid."""
    row = _payment(event, known)
    is_invoice = event.object.invoice is not None
    return (
        [] if row is None or not is_invoice else _saved(known, event, link_payment_ids(row, charge=event.object.charge))
    )


def _payment(event: IntentEvent, known: Known) -> Payment | None:
    intent = event.object
    if intent.invoice is None:
        return known.payment(event.account, intent.id)
    row = link_payment_ids(
        payment_of(known, event.account, intent.invoice),
        invoice=intent.invoice,
        payment_intent=intent.id,
        customer=intent.customer,
    )
    return priced(row, event, intent.amount, intent.currency)


def _saved(known: Known, event: IntentEvent, row: Payment) -> list[Effect]:
    before = known.payment(event.account, event.object.invoice or event.object.id)
    return [] if row == before else [Save(row)]
