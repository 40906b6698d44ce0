"""The rules for `charge.*` and `invoice_payment.paid`: links a charge to its payment; decline reasons; refunds."""

from __future__ import annotations

from schemas.effects import Effect
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.payment_facts import earliest
from schemas.references import References
from schemas.refetch import is_refetched
from schemas.state import Payment
from schemas.statuses import LinkKind
from schemas.stripe.charge import StripeCharge
from schemas.stripe.invoice_payment import StripeInvoicePayment
from streams.rules.payments.matching import Match, is_loose, match, named, of_charge, of_payment, refs
from streams.rules.payments.receipts import receipt
from streams.rules.payments.refund_total import apply_charge
from streams.rules.payments.row import PAID, declined, succeeded
from streams.rules.payments.stream import stream

ChargeEvent = Event[StripeCharge]


def _ids(charge: StripeCharge) -> dict[str, LinkKind]:
    return named(invoice=charge.invoice, intents=(charge.payment_intent,), charges=(charge.id,))


def _ids_without_charge(charge: StripeCharge) -> dict[str, LinkKind]:
    """A failed charge pays nothing, so it is not linked."""
    return named(invoice=charge.invoice, intents=(charge.payment_intent,))


def refer(event: ChargeEvent) -> References:
    return References(payments=refs(event.account, _ids(event.object)))


def refer_link(event: Event[StripeInvoicePayment]) -> References:
    return References(payments=refs(event.account, _ids_of_part(event.object)))


@stream.on("charge.succeeded", model=StripeCharge, refer=refer, rank=30)
def on_succeeded(event: ChargeEvent, known: Known) -> list[Effect]:
    """Links the charge to its payment, which its own events mark as paid.

    One that was fetched to repair a purchase marks it as paid: the checkout's events were lost, or applied without it.
    """
    charge = event.object
    if charge.source_transfer is not None:
        return []
    found = match(known, event.account, _ids(charge))
    if charge.invoice:
        return found.save(of_charge(found.row_or_blank, event, charge))
    if is_refetched(event.id) and charge.status == "succeeded" and charge.captured and _is_purchase(found.row):
        return _repaired(found, event, known)
    return found.save()


def _is_purchase(row: Payment | None) -> bool:
    return row is not None and row.checkout_session_id is not None and row.invoice_id is None


def _repaired(found: Match, event: ChargeEvent, known: Known) -> list[Effect]:
    """The purchase as its charge shows it: paid, and how much of it."""
    charge, row = event.object, found.row_or_blank
    amount = charge.amount if charge.amount_captured is None else charge.amount_captured
    if row.status in PAID and (row.amount, row.currency) == (amount, charge.currency):
        return found.save()
    paid_at = row.paid_at or charge.created or event.at
    paid = replace(row, fulfilled_at=earliest(row.fulfilled_at, paid_at))
    paid = succeeded(paid, event, amount, charge.currency, paid_at=paid_at)
    return [*found.save(paid), *receipt(known, event, paid, name=None, to=charge.receipt_email)]


@stream.on("charge.failed", model=StripeCharge, refer=refer, rank=20)
def on_failed(event: ChargeEvent, known: Known) -> list[Effect]:
    """C2. Stores the decline reason."""
    charge = event.object
    if charge.invoice is None:
        return []
    found = match(known, event.account, _ids_without_charge(charge))
    return found.save(declined(of_charge(found.row_or_blank, event, charge), event, charge.failure_message))


@stream.on("charge.refunded", model=StripeCharge, refer=refer, rank=40)
def on_refunded(event: ChargeEvent, known: Known) -> list[Effect]:
    """C8. For a loose payment, only the charge contains the customer and the amount.

    The refund of a transfer shows on the connected account too, where there was no payment.
    """
    charge = event.object
    if charge.source_transfer is not None:
        return []
    found = match(known, event.account, _ids(charge))

    def apply_to(row: Payment) -> list[Effect]:
        if is_loose(row):
            row = of_charge(row, event, charge)
        return found.save(apply_charge(row, event))

    if charge.invoice is not None:
        return apply_to(of_charge(found.row_or_blank, event, charge))
    return of_payment(found, charge.currency, apply_to)


@stream.on("invoice_payment.paid", model=StripeInvoicePayment, refer=refer_link, rank=30)
def on_invoice_payment_paid(event: Event[StripeInvoicePayment], known: Known) -> list[Effect]:
    """Links a part of the invoice's payment. Waits for the invoice's event, which has customer and amount."""
    found = match(known, event.account, _ids_of_part(event.object))
    if found.row is None or found.row.invoice_id is None:
        raise NotKnownYet(f"invoice {event.object.invoice}")
    return found.save()


def _ids_of_part(part: StripeInvoicePayment) -> dict[str, LinkKind]:
    return named(invoice=part.invoice, intents=(part.payment_intent,), charges=(part.charge,))
