"""The rules for what an open invoice owes: credit notes and changed amounts (behaviours.md C15)."""

from __future__ import annotations

from schemas.effects import Effect
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.payment_facts import derived
from schemas.references import References
from schemas.statuses import LinkKind
from schemas.stripe.credit_note import StripeCreditNote
from schemas.stripe.invoice import StripeInvoice
from streams.rules.invoices.events import ask_what_is_owed, stream
from streams.rules.payments.matching import match, named, refs
from streams.rules.payments.row import invoice_changed

INVOICE_UPDATED = 25
"""Before the failure of the same second. What the invoice owes is ordered by previous attributes instead."""

_AMOUNTS = {"amount_due", "amount_remaining", "amount_paid"}

CreditNoteEvent = Event[StripeCreditNote]


def _refer_note(event: CreditNoteEvent) -> References:
    return References(payments={(event.account, event.object.invoice)})


@stream.on("credit_note.created", model=StripeCreditNote, refer=_refer_note, rank=20)
@stream.on("credit_note.updated", model=StripeCreditNote, refer=_refer_note, rank=50)
@stream.on("credit_note.voided", model=StripeCreditNote, refer=_refer_note, rank=90, terminal=True)
def on_credit_note(event: CreditNoteEvent, known: Known) -> list[Effect]:
    """Reduces what the invoice owes. A note on a paid invoice is a refund, and the refund's own events report it."""
    note = event.object
    if note.amount == 0:
        return []
    found = match(known, event.account, {note.invoice: LinkKind.INVOICE})
    if found.row is None:
        raise NotKnownYet(f"invoice {note.invoice}", [])
    before = found.row.credits.get(note.id)
    if before is not None and event.version <= before["version"]:
        return []
    is_void = event.terminal or note.is_void
    entry = {
        "amount": note.amount,
        "created": int(note.created.timestamp()),
        "voided": int((note.voided_at or event.at).timestamp()) if is_void else None,
        "version": event.version,
    }
    return found.save(derived(replace(found.row, credits={**found.row.credits, note.id: entry})))


def _refer_invoice(event: Event[StripeInvoice]) -> References:
    return References(payments=refs(event.account, _ids(event.object)))


@stream.on("invoice.updated", model=StripeInvoice, refer=_refer_invoice, rank=INVOICE_UPDATED)
def on_updated(event: Event[StripeInvoice], known: Known) -> list[Effect]:
    """Keeps what an open invoice owes. Other changes of an invoice have events of their own.

    A fetched invoice replaced nothing. It shows what a known payment owes now, after a tie for instance.
    """
    invoice = event.object
    if invoice.id is None or invoice.status != "open" or (event.previous and not _AMOUNTS & event.previous.keys()):
        return []
    found = match(known, event.account, _ids(invoice))
    if found.row is None and not event.previous:
        return []
    payment = invoice_changed(found.row_or_blank, event, invoice.customer or event.customer_id)
    return found.save(payment) + ask_what_is_owed(event, found.row, payment)


def _ids(invoice: StripeInvoice) -> dict[str, LinkKind]:
    return named(invoice=invoice.id, intents=invoice.payment_intents)
