"""The rule for an invoice that the customer pays by hand and that is past its due date (behaviours.md C3)."""

from __future__ import annotations

from schemas.effects import Effect, NoteStale
from schemas.event import Event
from schemas.known import Known
from schemas.stripe.invoice import SEND_INVOICE, StripeInvoice
from streams.rules.customers.account import save_customer_and_derived
from streams.rules.invoices import events
from streams.rules.mails import iso, mail, money, stripe_link
from streams.rules.payments.row import PAID


@events.stream.on("invoice.overdue", model=StripeInvoice, refer=events.refer, rank=20)
def on_overdue(event: Event[StripeInvoice], known: Known) -> list[Effect]:
    """One mail per invoice. Stripe reports the status of its subscription with an event of its own.

    An invoice that is charged automatically has the mails of its failed attempts instead.
    """
    invoice, customer = event.object, events.customer_of(event, known)
    before = events.payment_of(event, known).row
    if customer is None:
        return []
    row = events.subscription_of(event, known, customer)
    effects = save_customer_and_derived(known, customer, *([row] if row is not None else []))
    if before is not None and (before.status in PAID or before.closed_at is not None):
        return [*effects, NoteStale(f"{invoice.id} is {'paid' if before.status in PAID else 'closed'}")]
    remaining = invoice.remaining_amount if before is None else before.amount_remaining
    remaining = invoice.remaining_amount if remaining is None else remaining
    is_over = customer.deleted_at is not None or (row is not None and events.is_over_for(row, invoice))
    if invoice.collection_method != SEND_INVOICE or remaining <= 0 or is_over:
        return effects
    data = {
        "number": invoice.number,
        "amount": money(remaining, invoice.currency),
        "due_at": iso(invoice.due_date),
        "hosted_url": stripe_link(known.config, invoice.hosted_invoice_url),
        "subscription_id": invoice.subscription,
    }
    key = f"overdue:{invoice.id}"
    return [*effects, mail("invoice-overdue", key, customer, data, recipient=invoice.customer_email)]
