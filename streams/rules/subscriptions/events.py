"""The rules of stream `subscriptions`: `customer.subscription.*` (behaviours.md B1, B3, B4, B5)."""

from __future__ import annotations

from datetime import timedelta

from schemas.effects import Effect, NoteStale
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.fast_row import replace, value
from schemas.known import Known
from schemas.references import References
from schemas.state import Customer, Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription
from schemas.version import UNSEEN, Version, is_tie
from streams.rules.customers import cancellation
from streams.rules.customers.account import (
    customer_or_blank,
    is_in_use_by_another,
    link_user,
    returned,
    save_customer_and_derived,
    subscriptions_with,
)
from streams.rules.customers.organization import organization_name
from streams.rules.mails import DAY_S, days_until, iso, mail, plan_name_of, welcome
from streams.rules.precedence import (
    SUBSCRIPTION_CREATED,
    SUBSCRIPTION_DELETED,
    SUBSCRIPTION_UPDATED,
    is_older,
    rank_of,
    seconds_of,
)
from streams.rules.registry import Stream
from streams.rules.subscription_row import (
    ENDED,
    NEVER_BEGUN,
    apply_subscription_event,
    blank,
    needs_stripe,
    status_of,
    version_of,
)
from streams.rules.subscriptions import plan_change, trial
from streams.rules.ties import ask_stripe

stream = Stream("subscriptions")

SubscriptionEvent = Event[StripeSubscription]

_ORDERING = (
    *("version", "first_version", "items_version", "status_version"),
    *("newest", "earlier", "price_changes", "first_price_id"),
)
"""Columns that only decide what later events mean. What the others show, an operator may ask the ledger about."""


@value(frozen=True, slots=True)
class SubscriptionChange:
    """The rows before and after a subscription event, with the effects that all such events share."""

    version: Version
    before: Subscription | None
    after: Subscription
    customer: Customer
    effects: list[Effect]

    @property
    def is_newest(self) -> bool:
        """Whether the row has the event's values, and did not have them before. A late one may make others count."""
        return self.after.version == self.version and (self.before is None or self.before.version != self.version)


def refer(event: SubscriptionEvent) -> References:
    subscription = event.object
    timers = cancellation.timer_keys(event.account, subscription.id)
    if subscription.trial_end is not None:
        timers.add(trial.timer_key(event.account, subscription.id, subscription.trial_end))
    return References(
        customers={(event.account, _customer_id(event))},
        subscriptions={(event.account, subscription.id)},
        timers=timers,
        timers_of=set(cancellation.TIMERS_OF),
        users={(event.account, subscription.user_id)} if subscription.user_id else set(),
    )


@stream.on("customer.subscription.created", model=StripeSubscription, refer=refer, rank=SUBSCRIPTION_CREATED)
def on_created(event: SubscriptionEvent, known: Known) -> list[Effect]:
    """B1. Sends the welcome mail; if the first payment is pending, the update after the payment sends it."""
    change = _change(event, known)
    before, status = change.before, change.after.status
    # If `created` arrives after its updates, their status decides about the welcome mail.
    is_late = before is not None and before.version != UNSEEN and status not in NEVER_BEGUN
    if status in ENDED or (event.object.status in NEVER_BEGUN and not is_late):
        return change.effects
    return change.effects + _welcome(known, change)


@stream.on("customer.subscription.updated", model=StripeSubscription, refer=refer, rank=SUBSCRIPTION_UPDATED)
def on_updated(event: SubscriptionEvent, known: Known) -> list[Effect]:
    """B3, and what a fetch or a repair found. Sends the welcome mail after the first payment, and plan changes."""
    change = _change(event, known)
    if change.after.status in NEVER_BEGUN | ENDED:
        return change.effects
    effects = list(change.effects)
    if _has_begun(event, change):
        effects += _welcome(known, change)
    return effects + plan_change.mails(known, event, change.before, change.after, change.customer)


@stream.on(
    "customer.subscription.deleted", model=StripeSubscription, refer=refer, rank=SUBSCRIPTION_DELETED, terminal=True
)
def on_deleted(event: SubscriptionEvent, known: Known) -> list[Effect]:
    """B4, B6. Data stays until the erasure timer fires; access ends at once."""
    return _change(event, known).effects


@stream.on("customer.subscription.trial_will_end", model=StripeSubscription, refer=refer, rank=SUBSCRIPTION_UPDATED)
def on_trial_will_end(event: SubscriptionEvent, known: Known) -> list[Effect]:
    """B5. Stripe also sends this event when a trial is ended immediately; then no mail is sent."""
    change = _change(event, known)
    subscription = event.object
    is_over = change.after.status is not SubscriptionStatus.TRIALING
    if subscription.trial_end is None or not trial.is_in_trial(event) or is_over:
        return change.effects
    data = trial.data(known, change.after, subscription.trial_end, days_until(subscription.trial_end, event.at))
    key = f"trial-ending:{subscription.id}:{int(subscription.trial_end.timestamp())}"
    return [*change.effects, mail("trial-ending", key, change.customer, data)]


@stream.on(
    "customer.subscription.pending_update_expired",
    "customer.subscription.pending_update_applied",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    model=StripeSubscription, refer=refer, rank=SUBSCRIPTION_UPDATED,
)  # fmt: skip
def on_recorded(event: SubscriptionEvent, known: Known) -> list[Effect]:
    """B5. Stripe sends an `updated` with each of these, which shows the same. So they are ordered like updates (D2)."""
    return _change(event, known).effects


def _customer_id(event: SubscriptionEvent) -> str:
    customer_id = event.object.customer or event.customer_id
    if customer_id is None:
        raise RuleViolated(f"{event.object.id} names no customer, but every subscription has one")
    return customer_id


def _change(event: SubscriptionEvent, known: Known) -> SubscriptionChange:
    """Applies an event to its row and its customer, with the effects of the change of state, whatever brought it.

    A late event that changes nothing shown is noted as stale (D2).
    """
    subscription, customer_id, new_version = event.object, _customer_id(event), version_of(event)
    before = known.subscription(event.account, subscription.id)
    after = apply_subscription_event(before or blank(event.account, subscription.id, customer_id), event, known.config)
    customer = link_user(customer_or_blank(known, event.account, customer_id), event, subscription.user_id)
    if after.status not in NEVER_BEGUN:
        customer = returned(customer, subscription.created)
    effects = save_customer_and_derived(known, customer, after)
    effects += trial.reminders(known, event, customer_id)
    effects += cancellation.after_return(known, event, after)
    if status_of(event) is SubscriptionStatus.CANCELED:
        effects += _ended(event, known, after, customer)
    is_tied = before is not None and is_tie(before.version, new_version)
    if is_tied and needs_stripe(after):
        effects.append(ask_stripe(event, f"/v1/subscriptions/{event.object.id}", event.object.id, customer_id))
    if before is not None and not is_tied and new_version < before.version and _shows_the_same(before, after):
        is_late = is_older(new_version, before.version)
        effects.append(NoteStale(f"{subscription.id} {'already has a newer version' if is_late else 'has ended'}"))
    return SubscriptionChange(new_version, before, after, customer, effects)


def _shows_the_same(before: Subscription, after: Subscription) -> bool:
    """Whether the rows differ in nothing but what orders events. A late event may settle the second of newer ones."""
    return replace(after, **{name: getattr(before, name) for name in _ORDERING}) == before


def _ended(event: SubscriptionEvent, known: Known, row: Subscription, customer: Customer) -> list[Effect]:
    """The effects of a subscription's end (B4, B6), by its own event, a fetch, a repair or an import.

    The link to the export is created when the mail is sent, so that its lifetime starts then and the stored mail does
    not contain it. An end from so long ago that the data is due for erasure has neither mail nor export.
    """
    config = known.config
    ended_at = row.ended_at or row.canceled_at or event.at
    others = [other for other in subscriptions_with(known, customer) if other.key != row.key]
    waiting = cancellation.after_cancellation(known, event, ended_at, customer.customer_id, others)
    erase_at = ended_at + timedelta(days=config.rules.erase_after_days)
    if erase_at <= event.at:
        return waiting
    is_used = is_in_use_by_another(known, customer)
    is_all_over = bool(waiting) and not is_used and all(other.status in ENDED for other in others)
    export = cancellation.order_export(known, event, customer.customer_id)
    canceled = {
        "plan": plan_name_of(config, row),
        "canceled_at": iso(ended_at),
        "access_until": None,
        "export_id": export.key,
        "erase_at": iso(erase_at) if is_all_over else None,
        "reason": row.cancellation_reason if row.cancellation_reason in cancellation.NOT_BY_CHOICE else None,
        "update_url": config.mail.update_payment_url,
    }
    mails = [mail("subscription-canceled", f"canceled:{row.subscription_id}", customer, canceled)]
    if row.cancellation_reason not in cancellation.NOT_BY_CHOICE:  # withheld from who uses another one
        survey = {"survey_url": config.mail.survey_url}
        mails.append(mail("churn-survey", f"survey:{row.subscription_id}", customer, survey))
    return [*waiting, export, *mails]


def _has_begun(event: SubscriptionEvent, change: SubscriptionChange) -> bool:
    """Whether this update is the one after the first payment, by its previous attributes or by the row."""
    if event.object.status in NEVER_BEGUN:
        return False
    if event.previous.get("status") == SubscriptionStatus.INCOMPLETE:
        return True
    before = change.before
    if before is not None and before.stripe_status is SubscriptionStatus.INCOMPLETE and change.is_newest:
        return True
    # Stripe waits 23 hours for a first payment, and the paid invoice may have arrived before this update. The mail has
    # one key, so that it is sent once.
    first = change.after.first_version
    if rank_of(first) == SUBSCRIPTION_CREATED:
        return event.created - seconds_of(first) <= DAY_S
    # Found by a fetch or a repair, which have no previous attributes, while it is still new.
    created = event.object.created
    return (
        change.is_newest
        and not event.previous
        and created is not None
        and (event.at - created).total_seconds() <= DAY_S
    )


def _welcome(known: Known, change: SubscriptionChange) -> list[Effect]:
    subscriptions = subscriptions_with(known, change.customer, change.after)
    name = organization_name(change.customer, subscriptions)
    return [*welcome(known.config, change.customer, change.after, name, to=None)]
