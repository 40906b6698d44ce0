"""The rules for `customer.source.*`, the cards from before payment methods (behaviours.md C6).

Only cards change rows: other sources do not expire and are only recorded in the ledger. `customer.source.created` has
no rule, because Stripe itself announces the expiry of sources.
"""

from __future__ import annotations

from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from schemas.stripe.payment_method import StripePaymentMethod
from streams.rules.payments import card_expiry
from streams.rules.payments.methods import change, detach, refer
from streams.rules.payments.stream import stream

SourceEvent = Event[StripePaymentMethod]


@stream.on("customer.source.expiring", model=StripePaymentMethod, refer=refer, rank=20)
def on_expiring(event: SourceEvent, known: Known) -> list[Effect]:
    """C6. Sends the first notice at once; a timer sends the second."""
    if not _is_card(event):
        return []
    changed = change(event, known)
    if changed.customer is None:
        return changed.effects
    effects = changed.with_customer(known)
    row = changed.row
    is_gone = row.detached_at is not None or changed.customer.deleted_at is not None
    if is_gone or (row.exp_year, row.exp_month) != (event.object.exp_year, event.object.exp_month):
        return effects
    notice = card_expiry.notice(known, changed.customer, row, card_expiry.FIRST_STEP, event.at)
    return effects if notice is None else [*effects, notice]


@stream.on("customer.source.updated", model=StripePaymentMethod, refer=refer, rank=50)
def on_updated(event: SourceEvent, known: Known) -> list[Effect]:
    return change(event, known).with_customer(known) if _is_card(event) else []


@stream.on("customer.source.deleted", model=StripePaymentMethod, refer=refer, rank=90, terminal=True)
def on_deleted(event: SourceEvent, known: Known) -> list[Effect]:
    return detach(event, known) if _is_card(event) else []


def _is_card(event: SourceEvent) -> bool:
    return event.object.exp_month is not None and event.object.exp_year is not None
