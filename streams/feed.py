"""Turns changes of rows into notifications for the customer's application (behaviours.md F3).

It compares the rows before and after an event's effects, so it reports what has changed, whatever rule changed it: a
late, repeated or replayed event that changes nothing is not reported. Pure, and off unless the config has a `feed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.effects import Announce, Effect, Order, QueueEmail, QueueNotification, StartTimer
from schemas.event import Event
from schemas.feed_message import AccessFacts, DunningFacts, Facts, PaymentFacts, SubscriptionFacts, facts_json
from schemas.known import Known
from schemas.payment_facts import derived, ids_of, joined
from schemas.references import TimersOf
from schemas.settings import Config
from schemas.state import Customer, Key, Organization, Payment, Row, Subscription, derived_id
from schemas.statuses import PaymentStatus
from schemas.timer import TimerDue, timer_event_type
from schemas.version import UNSEEN
from streams.apply import EventOutcome
from streams.rules.invoices.dunning import invoice_of
from streams.rules.reminders import ACCESS_ENDS
from streams.rules.subscription_row import ENDED

_ACCESS = ("plan", "limits", "has_access", "access_reason", "access_changes_at")
_SUBSCRIPTION = (
    *("status", "plan", "price_id", "quantity", "current_period_end", "trial_end", "cancel_at"),
    *("cancel_at_period_end", "pause_collection", "ended_at"),
)
Written = Sequence[tuple[Row | None, Row | None]]
"""Rows before and after (schemas/changes.py)."""
_REPORTED = frozenset(
    {
        *(PaymentStatus.SUCCEEDED, PaymentStatus.FAILED, PaymentStatus.REFUNDED),
        *(PaymentStatus.CLOSED, PaymentStatus.LOST),
    }
)


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change, before it is addressed. `subject` is the id of what has changed."""

    type: str
    account: str
    customer_id: str | None
    subject: str
    facts: Facts | Mapping[str, Any]
    once: str = ""
    """Identifies the change if it may be ordered by several events; otherwise the event does."""


def timers_of_feed(config: Config) -> set[TimersOf]:
    """Returns the open timers that `notifications` may start, for References."""
    return {(ACCESS_ENDS, "")} if config.feed.is_on else set()


def notifications(event: Event[Any], outcome: EventOutcome, known: Known, *, is_imported: bool = False) -> list[Effect]:
    """Returns the notifications of an event whose effects are applied, and timers for those that need no event.

    An imported object is no change: the application knows it already.
    """
    if not known.config.feed.is_on:
        return []
    timers = list(_ends_of_grace(outcome.written))
    if is_imported:
        return [*timers]
    changes = [
        *_of_rows(outcome.written, known),
        *_of_steps(outcome.orders, known),
        *_of_timer(event, outcome, known),
        *_of_plugins(outcome.announced),
    ]
    return [*timers, *(order for change in changes for order in _addressed(change, event, known))]


def _addressed(change: StateChange, event: Event[Any], known: Known) -> Iterator[QueueNotification]:
    message_id = derived_id("msg", change.once or event.id, change.type, change.subject)
    for destination in known.config.feed.receivers(change.type):
        yield QueueNotification(
            key=f"{destination}:{message_id}",
            destination=destination,
            message_id=message_id,
            type=change.type,
            account=change.account,
            customer_id=change.customer_id,
            occurred_at=event.at,
            data=change.facts if isinstance(change.facts, Mapping) else facts_json(change.facts),
        )


def _of_rows(written: Written, known: Known) -> Iterator[StateChange]:
    merged = [old for old, new in written if isinstance(old, Payment) and new is None]
    relinked = dict(_relinked(written))
    for old, new in written:
        if isinstance(new, Organization) and _differ(old, new, _ACCESS):
            yield _access(new, known, previous_user_id=relinked.pop(new.key, None))
        elif isinstance(new, Subscription):
            yield from _of_subscription(old if isinstance(old, Subscription) else None, new, known)
        elif isinstance(new, Payment):
            yield from _of_payment(_before(old, new, merged), new, known)
    for key, previous_user_id in relinked.items():
        organization = known.find(Organization, key)
        if organization is not None:
            yield _access(organization, known, previous_user_id=previous_user_id)


def _before(old: Row | None, new: Payment, merged: Sequence[Payment]) -> Payment | None:
    """The payment before the event: its own row, joined with those that turned out to be the same payment."""
    ids = ids_of(new)
    rows = [row for row in merged if row.account == new.account and ids_of(row).keys() & ids.keys()]
    rows += [old] if isinstance(old, Payment) else []
    return derived(joined(rows)) if rows else None


def _relinked(written: Written) -> Iterator[tuple[Key, str | None]]:
    """The organizations whose user is linked, or is another one, and who it was before."""
    for old, new in written:
        if isinstance(old, Customer) and isinstance(new, Customer) and new.user_id != old.user_id:
            yield (Organization.id_of(old.account, old.customer_id),), old.user_id


def _access(row: Organization, known: Known, *, previous_user_id: str | None = None) -> StateChange:
    facts = AccessFacts(
        user_id=_user_of(known, row.account, row.customer_id),
        organization_id=row.organization_id,
        has_access=row.has_access,
        plan=row.plan,
        limits=dict(row.limits),
        reason=row.access_reason,
        changes_at=row.access_changes_at,
        previous_user_id=previous_user_id,
    )
    return StateChange("access.changed", row.account, row.customer_id, row.organization_id, facts)


def _of_subscription(old: Subscription | None, new: Subscription, known: Known) -> Iterator[StateChange]:
    """A row without a version has no subscription object yet: its invoice or checkout came first."""
    if new.version == UNSEEN or not _differ(old, new, _SUBSCRIPTION):
        return
    is_new = old is None or old.version == UNSEEN
    has_ended = new.status in ENDED and (is_new or (old is not None and old.status not in ENDED))
    facts = SubscriptionFacts(
        user_id=_user_of(known, new.account, new.customer_id),
        subscription_id=new.subscription_id,
        **{name: getattr(new, name) for name in _SUBSCRIPTION},
    )
    type_ = "subscription.ended" if has_ended else "subscription.created" if is_new else "subscription.updated"
    yield StateChange(type_, new.account, new.customer_id, new.subscription_id, facts)


def _of_payment(old: Payment | None, new: Payment, known: Known) -> Iterator[StateChange]:
    facts = PaymentFacts(
        user_id=_user_of(known, new.account, new.customer_id),
        payment_id=new.payment_id,
        status=new.status,
        amount=new.amount,
        currency=new.currency,
        refunded_amount=new.refunded_amount,
        attempt_count=new.attempt_count,
        invoice_id=new.invoice_id,
        checkout_session_id=new.checkout_session_id,
        subscription_id=new.subscription_id,
    )
    was = old or Payment(payment_id=new.payment_id, account=new.account)
    types: list[str] = []
    if new.status in _REPORTED and new.status != was.status:
        types.append(f"payment.{new.status}")
    if new.status == PaymentStatus.FAILED and new.attempt_count > was.attempt_count:
        types.append("payment.failed")
    if new.refunded_amount > was.refunded_amount:
        types.append("payment.refunded")
    if new.on_hold and not was.on_hold:
        types.append("payment.disputed")
    if new.fulfilled_at is not None and was.fulfilled_at is None:
        types.append("payment.fulfilled")
    for type_ in dict.fromkeys(types):
        yield StateChange(type_, new.account, new.customer_id, new.payment_id, facts)


def _of_plugins(announced: Sequence[Announce]) -> Iterator[StateChange]:
    for one in announced:
        yield StateChange(one.type, one.account, one.customer_id, one.subject, one.data, once=one.once)


def _of_steps(orders: Sequence[Order], known: Known) -> Iterator[StateChange]:
    """The steps of dunning that are reached now: their mails are ordered now, whether or not they are sent."""
    for order in orders:
        if isinstance(order, QueueEmail) and (invoice_id := invoice_of(order)) is not None:
            user_id = _user_of(known, order.account, order.customer_id)
            facts = DunningFacts(user_id=user_id, invoice_id=invoice_id, step=order.template)
            yield StateChange("dunning.step", order.account, order.customer_id, invoice_id, facts, once=order.key)


def _of_timer(event: Event[Any], outcome: EventOutcome, known: Known) -> Iterator[StateChange]:
    """The end of a grace time: no row changes, because the row says what applies from then on.

    A timer that was cancelled or moved has written nothing.
    """
    if event.type != timer_event_type(ACCESS_ENDS) or not outcome.written:
        return
    due: TimerDue = event.object
    row = known.find(Organization, (due.subject,))
    if row is None:
        return
    user_id = _user_of(known, row.account, row.customer_id)
    for at, after in row.access_steps:
        if at.replace(microsecond=0) == due.due_at:
            facts = AccessFacts(user_id=user_id, organization_id=row.organization_id, **after)
            yield StateChange("access.changed", row.account, row.customer_id, row.organization_id, facts)


def _ends_of_grace(written: Written) -> Iterator[StartTimer]:
    for old, new in written:
        if isinstance(new, Organization):
            known = {at for at, _ in old.access_steps} if isinstance(old, Organization) else set()
            yield from (_end_of_grace(new, at) for at, _ in new.access_steps if at not in known)


def _end_of_grace(row: Organization, at: datetime) -> StartTimer:
    return StartTimer(
        key=f"{ACCESS_ENDS}:{row.organization_id}:{int(at.timestamp())}",
        account=row.account,
        customer_id=row.customer_id,
        kind=ACCESS_ENDS,
        subject=row.organization_id,
        due_at=at,
    )


def _user_of(known: Known, account: str, customer_id: str | None) -> str | None:
    customer = known.find(Customer, (account, customer_id)) if customer_id is not None else None
    return customer.user_id if customer is not None else None


def _differ(old: object, new: object, names: Sequence[str]) -> bool:
    return any(getattr(old, name, None) != getattr(new, name) for name in names)
