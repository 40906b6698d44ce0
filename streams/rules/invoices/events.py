"""The rules of stream `invoices`: `invoice.*` (behaviours.md C1 to C5). Other types are only recorded."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.effects import Effect, NoteStale
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.known import Known
from schemas.recovery_facts import has_recovered_from
from schemas.references import References
from schemas.state import Customer, Payment, Subscription
from schemas.statuses import LinkKind
from schemas.stripe.invoice import FIRST_INVOICE, SEND_INVOICE, StripeInvoice
from schemas.version import seconds_of
from streams.rules.customers.access import ends_with_period
from streams.rules.customers.account import customer_or_blank, returned, save_customer_and_derived, with_weak_profile
from streams.rules.invoices import dunning
from streams.rules.mails import iso, mail, money, plan_name, plan_name_of, stripe_link
from streams.rules.payments.matching import Match, match, named, refs
from streams.rules.payments.row import PAID, invoice_closed, invoice_failed, invoice_paid, is_owed_undecided
from streams.rules.precedence import INVOICE_CLOSED, INVOICE_FAILED, INVOICE_PAID
from streams.rules.registry import Stream
from streams.rules.subscription_row import (
    ENDED,
    apply_invoice_closed,
    apply_invoice_failed,
    apply_invoice_paid,
    apply_invoice_written_off,
    blank,
)
from streams.rules.ties import ask_stripe

stream = Stream("invoices")

InvoiceEvent = Event[StripeInvoice]


def refer(event: InvoiceEvent) -> References:
    invoice, customer_id = event.object, _customer_id(event)
    return References(
        customers={(event.account, customer_id)} if customer_id else set(),
        subscriptions={(event.account, invoice.subscription)} if invoice.subscription else set(),
        payments=refs(event.account, _payment_ids(event)) if invoice.id else set(),
        timers_of={(dunning.DUNNING_REMINDER, invoice.id)} if invoice.id else set(),
    )


@stream.on("invoice.paid", "invoice.payment_succeeded", model=StripeInvoice, refer=refer, rank=INVOICE_PAID)
def on_paid(event: InvoiceEvent, known: Known) -> list[Effect]:
    """C1. Stripe sends both types for one payment; the second one changes nothing."""
    invoice, customer = event.object, customer_of(event, known)
    found = payment_of(event, known)
    effects = found.save(invoice_paid(found.row_or_blank, event, _customer_id(event)))
    if customer is None:
        return effects
    row = subscription_of(event, known, customer)
    if row is not None:
        row = apply_invoice_paid(row, event, known.config)
    effects += save_customer_and_derived(known, customer, *_some(row))
    effects += dunning.stop(known, event.account, customer.customer_id, _id(invoice))
    if invoice.paid_amount > 0:  # a trial starts with an invoice of 0, which gets no receipt
        receipt = {
            "number": invoice.number,
            "amount": money(invoice.paid_amount, invoice.currency),
            "paid_at": iso(invoice.paid_at or event.at),
            "hosted_url": stripe_link(known.config, invoice.hosted_invoice_url),
            "pdf_url": stripe_link(known.config, invoice.invoice_pdf),
            "plan": _plan_billed(known, invoice, row),
            "tax": money(invoice.tax, invoice.currency) if invoice.tax and invoice.is_paid_in_full else None,
        }
        key = f"receipt:{invoice.id}"
        effects.append(mail("payment-receipt", key, customer, receipt, recipient=invoice.customer_email))
    return effects


@stream.on("invoice.payment_failed", model=StripeInvoice, refer=refer, rank=INVOICE_FAILED)
def on_payment_failed(event: InvoiceEvent, known: Known) -> list[Effect]:
    """C2 and C3. An invoice that is already paid, or has failed again since, is neither marked as failed nor dunned.

    A written-off invoice can still be tried. That changes neither the subscription nor what is mailed.
    """
    invoice, customer = event.object, customer_of(event, known)
    steps = known.config.rules.dunning
    step = dunning.step_of(steps, invoice)
    found = payment_of(event, known)
    before = found.row
    payment = invoice_failed(
        found.row_or_blank,
        event,
        _customer_id(event),
        reached=dunning.reached_by(steps, event),
        is_final=step is not None and step.final,
    )
    effects = found.save(payment)
    is_stale = payment.version != event.version
    if is_stale:
        effects.append(NoteStale(f"{invoice.id} {'is paid' if payment.status in PAID else 'was tried again since'}"))
    effects += ask_what_is_owed(event, before, payment)
    if customer is None:
        return effects
    row = subscription_of(event, known, customer)
    if row is not None and not invoice.is_closed:
        row = apply_invoice_failed(row, event, is_settled=payment.status in PAID, config=known.config)
    effects += save_customer_and_derived(known, customer, *_some(row))
    if payment.status in PAID or payment.closed_at is not None or invoice.is_closed:
        return effects
    # Also after an end: the reminder checks the state when it fires, so the order of the two events does not matter.
    effects += dunning.reminders(known, event, customer, before, payment)
    is_over = customer.deleted_at is not None or (row is not None and is_over_for(row, invoice))
    notice = None if is_stale or is_over else dunning.notice(known, event, customer)
    return effects + ([notice] if notice is not None else [])


@stream.on(
    "invoice.voided", "invoice.marked_uncollectible", "invoice.deleted",
    model=StripeInvoice, refer=refer, rank=INVOICE_CLOSED,
)  # fmt: skip
def on_closed(event: InvoiceEvent, known: Known) -> list[Effect]:
    """C3. Dunning stops. Only a voided invoice is no longer owed and clears the failure; a deleted one was a draft."""
    invoice, customer = event.object, customer_of(event, known)
    found = payment_of(event, known)
    is_draft = found.row is None and invoice.is_draft  # no one was ever asked to pay it (behaviours.md C15)
    effects = [] if is_draft else found.save(invoice_closed(found.row_or_blank, event, _customer_id(event)))
    if customer is None:
        return effects
    row = subscription_of(event, known, customer)
    if row is not None and event.type != "invoice.deleted":
        apply = apply_invoice_closed if event.type == "invoice.voided" else apply_invoice_written_off
        row = apply(row, event, known.config)
    effects += save_customer_and_derived(known, customer, *_some(row))
    return effects + dunning.stop(known, event.account, customer.customer_id, _id(invoice))


@stream.on("invoice.payment_action_required", model=StripeInvoice, refer=refer, rank=20)
def on_payment_action_required(event: InvoiceEvent, known: Known) -> list[Effect]:
    """C4. The mail links the invoice's page or, if Stripe provides none, the page to update the payment method."""
    invoice, customer = event.object, customer_of(event, known)
    before = payment_of(event, known).row
    if customer is None:
        return []
    row = subscription_of(event, known, customer)
    effects = save_customer_and_derived(known, customer, *_some(row))
    if before is not None and (before.status in PAID or before.closed_at is not None):
        return [*effects, NoteStale(f"{invoice.id} is {'paid' if before.status in PAID else 'closed'}")]
    data = {
        "number": invoice.number,
        "amount": money(invoice.remaining_amount, invoice.currency),
        "hosted_url": stripe_link(known.config, invoice.hosted_invoice_url) or known.config.mail.update_payment_url,
        "subscription_id": invoice.subscription,
    }
    key = f"action-required:{invoice.id}"
    return [*effects, mail("payment-action-required", key, customer, data, recipient=invoice.customer_email)]


@stream.on("invoice.upcoming", model=StripeInvoice, refer=refer, rank=20)
def on_upcoming(event: InvoiceEvent, known: Known) -> list[Effect]:
    """C5. The invoice does not exist yet and has no id, so the mail's key is the event's id.

    Nothing is announced that will not happen: the subscription ends before, or its collection is paused.
    """
    invoice, customer = event.object, customer_of(event, known)
    if customer is None:
        return []
    row = subscription_of(event, known, customer)
    effects = save_customer_and_derived(known, customer, *_some(row))
    renews_at = invoice.next_payment_attempt or invoice.period_start
    if invoice.amount_due <= 0 or (row is not None and not _renews(row)):
        return effects
    is_sent = invoice.collection_method == SEND_INVOICE
    data = {
        "amount": money(invoice.amount_due, invoice.currency),
        "renews_at": iso(renews_at),
        "is_sent": is_sent,
        "due_at": iso(invoice.due_date) if is_sent else None,
        "plan": _plan_billed(known, invoice, row),
        "subscription_id": invoice.subscription,
        "billed": invoice.billed,
        "announced_at": iso(event.at),
        "items": _items_at(row, event),
    }
    key = f"renewal:{event.id}"
    return [*effects, mail("renewal-reminder", key, customer, data, recipient=invoice.customer_email)]


def ask_what_is_owed(event: InvoiceEvent, before: Payment | None, after: Payment) -> list[Effect]:
    """Asks Stripe for the invoice if the events of one second do not show what it owes (D2)."""
    invoice_id = _id(event.object)
    if not is_owed_undecided(before, after):
        return []
    return [ask_stripe(event, f"/v1/invoices/{invoice_id}", invoice_id, after.customer_id)]


def is_over_for(row: Subscription, invoice: StripeInvoice) -> bool:
    """Whether nothing is asked for: the subscription has ended, or recovered from this invoice."""
    return row.status in ENDED or has_recovered_from(row, _id(invoice))


def _plan_billed(known: Known, invoice: StripeInvoice, row: Subscription | None) -> str | None:
    """The name of the plan that the invoice bills, whatever the subscription has now; else that of its row."""
    plans = {known.config.plan_of_price(line.rpartition(":")[0]) for line in invoice.billed or ()}
    billed = max(plans, key=known.config.size_of_plan, default=None)
    is_chosen = row is not None and row.checkout_plan in known.config.plans  # at a checkout, in place of the price's
    return plan_name_of(known.config, row) if billed is None or is_chosen else plan_name(known.config, billed)


def _items_at(row: Subscription | None, event: InvoiceEvent) -> Sequence[str] | None:
    """The subscription's items when the event was made; None if only later ones are known."""
    seconds = seconds_of(row.items_version) if row is not None else None
    return row.item_quantities if row is not None and seconds is not None and seconds <= event.created else None


def _renews(row: Subscription) -> bool:
    return row.status not in ENDED and not ends_with_period(row) and row.pause_collection is None


def _customer_id(event: InvoiceEvent) -> str | None:
    return event.object.customer or event.customer_id


def customer_of(event: InvoiceEvent, known: Known) -> Customer | None:
    """The customer with what the invoice says about name and address; None if it names no customer."""
    customer_id = _customer_id(event)
    if customer_id is None:
        return None
    invoice = event.object
    customer = customer_or_blank(known, event.account, customer_id)
    if event.rank == INVOICE_PAID and invoice.billing_reason == FIRST_INVOICE:
        customer = returned(customer, invoice.created)
    return with_weak_profile(
        customer,
        event,
        email=invoice.customer_email,
        name=invoice.customer_name,
        address=invoice.customer_address,
    )


def subscription_of(event: InvoiceEvent, known: Known, customer: Customer) -> Subscription | None:
    """The row of the invoice's subscription; a blank one before the subscription's own events."""
    subscription_id = event.object.subscription
    if subscription_id is None:
        return None
    stored = known.subscription(event.account, subscription_id)
    return stored or blank(event.account, subscription_id, customer.customer_id)


def payment_of(event: InvoiceEvent, known: Known) -> Match:
    """The stored payment of the invoice. Raises RuleViolated if the invoice has no id."""
    _id(event.object)
    return match(known, event.account, _payment_ids(event))


def _payment_ids(event: InvoiceEvent) -> dict[str, LinkKind]:
    """The ids of the invoice's payment. Only the charge of a paid invoice has paid it."""
    invoice = event.object
    charges = invoice.charges if event.rank == INVOICE_PAID else ()
    return named(invoice=invoice.id, intents=invoice.payment_intents, charges=charges)


def _id(invoice: StripeInvoice) -> str:
    if invoice.id is None:
        raise RuleViolated("the invoice has no id; only an upcoming invoice may have none")
    return invoice.id


def _some(row: Subscription | None) -> list[Subscription]:
    return [] if row is None else [row]
