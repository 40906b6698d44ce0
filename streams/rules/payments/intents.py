"""The rules for `payment_intent.*`: decline reasons, links, and purchases that are captured later (B2, C10)."""

from __future__ import annotations

from schemas.effects import Effect
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.payment_facts import derived, earliest
from schemas.references import References
from schemas.state import Payment
from schemas.statuses import LinkKind
from schemas.stripe.payment_intent import StripePaymentIntent
from streams.rules.payments.matching import Match, is_loose, match, named, priced, refs
from streams.rules.payments.receipts import receipt
from streams.rules.payments.row import PAID, declined, succeeded
from streams.rules.payments.stream import stream

IntentEvent = Event[StripePaymentIntent]


def _ids(intent: StripePaymentIntent) -> dict[str, LinkKind]:
    return named(invoice=intent.invoice, intents=(intent.id,), charges=(intent.charge,))


def _ids_without_charge(intent: StripePaymentIntent) -> dict[str, LinkKind]:
    """The charge of an attempt that failed or was canceled pays nothing, so it is not linked."""
    return named(invoice=intent.invoice, intents=(intent.id,))


def refer(event: IntentEvent) -> References:
    intent = event.object
    customers = {(event.account, intent.customer)} if intent.customer else set()
    return References(payments=refs(event.account, _ids(intent)), customers=customers)


@stream.on("payment_intent.payment_failed", model=StripePaymentIntent, refer=refer, rank=25)
def on_payment_failed(event: IntentEvent, known: Known) -> list[Effect]:
    """C10. Stores the decline reason. An intent without a known payment is only recorded in the ledger."""
    found = match(known, event.account, _ids_without_charge(event.object))
    row = _of_invoice(found, event)
    return [] if row is None else found.save(declined(row, event, event.object.failure_reason))


@stream.on("payment_intent.succeeded", model=StripePaymentIntent, refer=refer, rank=35)
def on_succeeded(event: IntentEvent, known: Known) -> list[Effect]:
    """Links the charge. The events of the invoice or the checkout mark the payment as paid.

    Nothing but this event reports that a purchase with manual capture is paid: its checkout ended unpaid.
    """
    intent = event.object
    found = match(known, event.account, _ids(intent))
    if not intent.is_captured_manually or intent.invoice is not None:
        return found.save(_of_invoice(found, event))
    if found.row is None or is_loose(found.row):  # also if a refund has made the row: its checkout may still come
        raise NotKnownYet(f"the payment of {intent.id}", found.save())
    if found.row.invoice_id is not None:
        return found.save()
    before, amount = found.row, intent.amount if intent.amount_received is None else intent.amount_received
    row = replace(before, fulfilled_at=earliest(before.fulfilled_at, event.at))
    row = succeeded(row, event, amount, intent.currency, paid_at=event.at)
    return [*found.save(row), *receipt(known, event, row, name=None, to=intent.receipt_email)]


@stream.on("payment_intent.canceled", model=StripePaymentIntent, refer=refer, rank=36)
def on_canceled(event: IntentEvent, known: Known) -> list[Effect]:
    """B2. No one will pay a purchase whose authorization was canceled. An invoice's own events close it."""
    found = match(known, event.account, _ids_without_charge(event.object))
    row = found.row
    if (row is None or is_loose(row)) and event.object.is_captured_manually and event.object.invoice is None:
        raise NotKnownYet(f"the payment of {event.object.id}", [])
    if row is None or row.checkout_session_id is None or row.invoice_id is not None or row.status in PAID:
        return []
    return found.save(derived(replace(row, closed_at=earliest(row.closed_at, event.at))))


def _of_invoice(found: Match, event: IntentEvent) -> Payment | None:
    """The row to change: the stored one, or a new one if the intent names the invoice."""
    intent = event.object
    if intent.invoice is None:
        return found.row
    row = found.row_or_blank
    row = replace(row, customer_id=row.customer_id or intent.customer)
    return priced(row, event, intent.amount, intent.currency)
