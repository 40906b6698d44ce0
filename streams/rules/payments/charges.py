"""The rules for `charge.*` and `invoice_payment.paid`: links a charge to its payment; decline reasons; refunds."""

from __future__ import annotations

from schemas.effects import Effect, Save
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Payment
from schemas.stripe.charge import StripeCharge
from schemas.stripe.invoice_payment import StripeInvoicePayment
from streams.rules.payments.matching import is_loose, link_payment_ids, of_payment, priced, refs
from streams.rules.payments.refund_total import apply_charge
from streams.rules.payments.row import declined, payment_of
from streams.rules.payments.stream import stream

ChargeEvent = Event[StripeCharge]


def refer(event: ChargeEvent) -> References:
    charge = event.object
    return References(payments=refs(event.account, charge.invoice, charge.id, charge.payment_intent))


def refer_link(event: Event[StripeInvoicePayment]) -> References:
    payment = event.object
    return References(payments=refs(event.account, payment.invoice, payment.payment_intent, payment.charge))


@stream.on("charge.succeeded", model=StripeCharge, refer=refer, rank=30)
def on_succeeded(event: ChargeEvent, known: Known) -> list[Effect]:
    """Links the charge to its invoice, which its own event marks as paid. A charge without invoice is a checkout's."""
    if event.object.invoice is None:
        return []
    return _saved(known, link_payment_ids(_of_invoice(event, known, event.object.invoice), charge=event.object.id))


@stream.on("charge.failed", model=StripeCharge, refer=refer, rank=20)
def on_failed(event: ChargeEvent, known: Known) -> list[Effect]:
    """C2. Stores the decline reason. A failed charge does not pay the invoice, so it is not linked."""
    if event.object.invoice is None:
        return []
    row = _of_invoice(event, known, event.object.invoice)
    return _saved(known, declined(row, event, event.object.failure_message))


@stream.on("charge.refunded", model=StripeCharge, refer=refer, rank=40)
def on_refunded(event: ChargeEvent, known: Known) -> list[Effect]:
    """C8. For a loose payment, only the charge contains the customer and the amount."""
    charge = event.object

    def apply_to(row: Payment) -> list[Effect]:
        if is_loose(row):
            row = link_payment_ids(row, payment_intent=charge.payment_intent, customer=charge.customer)
            row = priced(row, event, charge.amount, charge.currency)
        return _saved(known, apply_charge(link_payment_ids(row, charge=charge.id), event))

    if charge.invoice is not None:
        return apply_to(_of_invoice(event, known, charge.invoice))
    return of_payment(known, event.account, charge.id, charge.payment_intent, charge.currency, apply_to)


@stream.on("invoice_payment.paid", model=StripeInvoicePayment, refer=refer_link, rank=30)
def on_invoice_payment_paid(event: Event[StripeInvoicePayment], known: Known) -> list[Effect]:
    """Links the invoice's payment to its intent. Waits for the invoice's event, which has customer and amount."""
    payment = event.object
    row = known.payment(event.account, payment.invoice)
    if row is None:
        raise NotKnownYet(f"invoice {payment.invoice}")
    return _saved(known, link_payment_ids(row, charge=payment.charge, payment_intent=payment.payment_intent))


def _of_invoice(event: ChargeEvent, known: Known, invoice_id: str) -> Payment:
    charge = event.object
    row = link_payment_ids(
        payment_of(known, event.account, invoice_id),
        invoice=invoice_id,
        payment_intent=charge.payment_intent,
        customer=charge.customer,
    )
    return priced(row, event, charge.amount, charge.currency)


def _saved(known: Known, row: Payment) -> list[Effect]:
    named = row.invoice_id or row.checkout_session_id or row.payment_intent_id or row.charge_id
    before = known.payment(row.account, named or "")
    return [] if row == before else [Save(row)]
