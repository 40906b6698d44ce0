"""Sets two timers before a card expires and sends the notices when they fire (behaviours.md C6).

A card is valid until the end of its month. Stripe announces the expiry only of sources (`customer.source.expiring`);
for payment methods the date is taken from their events. A step's mail has one key, whichever rule sends it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.effects import CancelTimers, Effect, FinishTimer, QueueEmail, StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Customer, PaymentMethod
from schemas.stripe.payment_method import StripePaymentMethod
from schemas.timer import TimerDue, timer_event_type
from streams.rules import timers
from streams.rules.mails import days_until, mail
from streams.rules.payments.stream import stream
from streams.rules.precedence import time_of
from streams.rules.subscription_row import ENDED

CARD_EXPIRING = "card-expiring"
FIRST_STEP, LAST_STEP = 30, 7
STEPS = (FIRST_STEP, LAST_STEP)
"""Days before the expiry."""


def timer_keys(account: str, card: StripePaymentMethod) -> set[str]:
    """The keys of the timers that an event of this card may set."""
    if card.exp_year is None or card.exp_month is None:
        return set()
    return {_timer_key(account, card.id, card.exp_year, card.exp_month, step) for step in STEPS}


def remind(known: Known, row: PaymentMethod, card: StripePaymentMethod) -> list[Effect]:
    """Sets the timers of the row's expiry, and cancels all with the card.

    Those of an earlier expiry stay and send nothing: a cancelled timer would be missing if the card got that expiry
    again. A late event with an older expiry sets no timers; the newer event has set them.
    """
    wanted = {timer.key: timer for timer in _timers(row, card.created)}
    is_current = (row.exp_year, row.exp_month) == (card.exp_year, card.exp_month)
    effects: list[Effect] = []
    if row.customer_id is not None:
        present = known.timers_of(row.account, row.customer_id, CARD_EXPIRING, row.payment_method_id)
        if present and not wanted:
            effects.append(
                CancelTimers(
                    account=row.account,
                    customer_id=row.customer_id,
                    kinds=(CARD_EXPIRING,),
                    subject=row.payment_method_id,
                )
            )
    if is_current:
        effects += [timer for key, timer in wanted.items() if known.timer(key) is None]
    return effects


def notice(known: Known, customer: Customer, row: PaymentMethod, step: int, now: datetime) -> QueueEmail | None:
    """Returns the mail of a step; None if the method has no expiry or has expired."""
    expiry = expiry_of(row)
    if expiry is None or expiry <= now:
        return None
    data = {
        "brand": row.brand,
        "last4": row.last4,
        "exp_month": row.exp_month,
        "exp_year": row.exp_year,
        "update_url": known.config.mail.update_payment_url,
        "days_left": days_until(expiry, now),
    }
    key = f"card-expiring:{row.payment_method_id}:{row.exp_year}-{row.exp_month:02d}:{step}"
    return mail("card-expiring", key, customer, data)


def expiry_of(row: PaymentMethod) -> datetime | None:
    """The first moment (UTC) at which the card is no longer valid; None for a method without an expiry."""
    if row.exp_year is None or row.exp_month is None:
        return None
    is_december = row.exp_month == 12
    return datetime(row.exp_year + is_december, 1 if is_december else row.exp_month + 1, 1, tzinfo=UTC)


def refer(event: Event[TimerDue]) -> References:
    references = timers.refer(event)
    references.payment_methods.add((event.account, event.object.subject))
    return references


@stream.on(timer_event_type(CARD_EXPIRING), model=TimerDue, refer=refer)
def on_card_expiring(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Sends the notice only if the card is in use and still has the expiry from when the timer was set."""
    if not timers.is_due(event, known):
        return []
    done, data = FinishTimer(event.object.timer_key), event.object.data
    row = known.payment_method(event.account, event.object.subject)
    customer = known.customer(event.account, event.object.customer or "")
    if row is None or customer is None or customer.deleted_at is not None:
        return [done]
    if (row.exp_year, row.exp_month) != (data["exp_year"], data["exp_month"]) or not _is_in_use(known, customer, row):
        return [done]
    # The timer of a card added in its last weeks is due at once, with fewer days left than the step's, or none.
    sent = notice(known, customer, row, data["step"], max(event.at, time_of(row.version)))
    return [done] if sent is None else [done, sent]


def _is_in_use(known: Known, customer: Customer, row: PaymentMethod) -> bool:
    """Whether a payment will be made with the method.

    That is a running subscription's own method, else the customer's default or, if that is unknown, the only one.
    """
    if row.detached_at is not None:
        return False
    running = [one for one in known.subscriptions_of(customer.account, customer.customer_id) if one.status not in ENDED]
    if any(one.default_payment_method == row.payment_method_id for one in running):
        return True
    if running and all(one.default_payment_method is not None for one in running):
        return False
    if customer.default_payment_method is not None:
        return customer.default_payment_method == row.payment_method_id
    others = known.payment_methods_of(customer.account, customer.customer_id)
    return all(other.key == row.key or other.detached_at is not None for other in others)


def _timers(row: PaymentMethod, created: datetime | None) -> list[StartTimer]:
    """The timers of both steps; only the last for a card created after its due time. Past timers fire at once."""
    expiry = expiry_of(row)
    if expiry is None or row.customer_id is None or row.detached_at is not None:
        return []
    is_made_late = created is not None and created >= expiry - timedelta(days=LAST_STEP)
    return [
        StartTimer(
            key=_timer_key(row.account, row.payment_method_id, row.exp_year, row.exp_month, step),
            account=row.account,
            customer_id=row.customer_id,
            kind=CARD_EXPIRING,
            subject=row.payment_method_id,
            due_at=expiry - timedelta(days=step),
            data={"step": step, "exp_year": row.exp_year, "exp_month": row.exp_month},
        )
        for step in ((LAST_STEP,) if is_made_late else STEPS)
    ]


def _timer_key(account: str, card_id: str, exp_year: int | None, exp_month: int | None, step: int) -> str:
    return f"{CARD_EXPIRING}:{account}:{card_id}:{exp_year}-{exp_month:02d}:{step}"
