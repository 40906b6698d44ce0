"""Applies events to a subscription's row, in any order.

The row's groups of columns, each with its version, and the events that write them:

    version            Stripe's status, period, trial, end   subscription events (`earlier`: those before its second)
    items_version      items and prices                      subscription events that name a price
    billing_version    the facts of its invoices             invoices
    checkout_version   the plan chosen at checkout           checkouts
    first_version      the price at the start                the oldest subscription event

Stripe reports the status, so `status` is that of the newest subscription object. An invoice changes it only if it is
the subscription's latest one and newer than that object (behaviours.md C1, C2). Price, plan, `status` and the facts of
the failed invoice are derived from the groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from schemas.event import Event
from schemas.fast_row import replace
from schemas.settings import FREE_PLAN, Config
from schemas.state import Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.invoice import FIRST_INVOICE, StripeInvoice
from schemas.stripe.subscription import StripeSubscription, SubscriptionItem, previous_items, previous_values
from schemas.version import UNSEEN, Version, is_tie, version
from streams.rules import same_second
from streams.rules.precedence import WEAK, seconds_of, weak
from streams.rules.subscriptions import earlier_state, invoice_facts, price_changes, status_history

ENDED = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})
"""Final statuses: a subscription with the same id never leaves them."""

NEVER_BEGUN = frozenset({SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED})
"""The first payment is pending, or it never arrived."""

_UNPAID = frozenset({SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID})

_FACTS = (
    "current_period_start",
    "current_period_end",
    "trial_end",
    "latest_invoice",
    "default_payment_method",
    "pending_update",
    "cancel_at",
    "cancel_at_period_end",
    "canceled_at",
    "cancellation_reason",
    "ended_at",
    "pause_collection",
    "resumes_at",
    "collection_method",
    "trial_end_behavior",
)
"""Columns with the name of their field."""
_FACTS_OF = attrgetter(*_FACTS)

_TIMES = frozenset(
    {"current_period_start", "current_period_end", "trial_end", "cancel_at", "canceled_at", "ended_at", "resumes_at"}
)

_MAIN = ("quantity", "unit_amount", "currency", "interval", "interval_count")
"""Columns of the item that decides the plan."""

Item = Mapping[str, Any]


def blank(account: str, subscription_id: str, customer_id: str) -> Subscription:
    """Returns a subscription of which only the id and the customer are known."""
    return Subscription(account=account, subscription_id=subscription_id, customer_id=customer_id)


def status_of(event: Event[StripeSubscription]) -> SubscriptionStatus:
    """The status in the event. `deleted` means canceled, unless its first payment never arrived (behaviours.md B4)."""
    status = event.object.status
    return SubscriptionStatus.CANCELED if event.terminal and status not in ENDED else status


def version_of(event: Event[StripeSubscription]) -> Version:
    """The version that a subscription event writes: terminal if its status is final, whatever the event's type."""
    return version(event.created, event.rank, event.id, terminal=status_of(event) in ENDED)


def needs_stripe(row: Subscription) -> bool:
    """Whether only Stripe knows which of two events of one second is the later one."""
    tied = row.newest.get("tied", ())
    return bool(tied) and same_second.is_undecided(tied, _shown)


def apply_subscription_event(row: Subscription, event: Event[StripeSubscription], config: Config) -> Subscription:
    """The row after a `customer.subscription.*` event."""
    status, new_version = status_of(event), version_of(event)
    row = _with_stripe_status(row)
    history = status_history.with_event(row, event, status, new_version)
    items = plain_items(event.object.items)
    if event.object.has_more_items and config.plan_of_price(_price_of(items, config)) is None:
        # The item that decides the plan may be left out. The items of any event that shows it overrule these.
        if items and weak(new_version) > row.items_version:
            row = replace(row, items=items, items_version=weak(new_version))
        items = []
    changes: dict[str, Any] = {}
    if is_tie(row.version, new_version):  # with_derived settles it
        row = replace(row, newest={"tied": same_second.tied_with(row.newest, _stored(row), _snapshot(event, items))})
    else:
        if new_version < row.version:
            changes["earlier"] = earlier_state.with_late(row.earlier, _snapshot(event, items), _shown)
        elif new_version > row.version:
            changes = dict(zip(_FACTS, _FACTS_OF(event.object), strict=True))
            if row.version != UNSEEN:
                own = row.newest.get("tied") or [{**_stored(row), "previous": row.newest.get("previous", {})}]
                changes["earlier"] = earlier_state.of_second(own, _shown)
            newest = {"previous": previous_values(event.previous)}
            changes |= {"stripe_status": status, "version": new_version, "newest": newest}
        if items and new_version > row.items_version:
            changes |= {"items": items, "items_version": new_version}
    changes["newest"] = {**changes.get("newest", row.newest), **history}
    price, before = _price_of(items, config), _price_of(plain_items(previous_items(event.previous)), config)
    if row.first_version == UNSEEN or event.version < row.first_version:
        changes |= {"first_price_id": before or price or row.first_price_id, "first_version": event.version}
    if price is not None:
        changes["price_changes"] = price_changes.with_price(row.price_changes, event.created, price, before)
    return with_derived(replace(row, **changes), config)


def apply_checkout_event(
    row: Subscription, event: Event[Any], plan_id: str | None, *, has_begun: bool, config: Config
) -> Subscription:
    """The row after a completed checkout: the chosen plan and, until Stripe reports a status, the status active."""
    changes: dict[str, Any] = {}
    if plan_id is not None and event.version > row.checkout_version:
        changes |= {"checkout_plan": plan_id, "checkout_version": event.version}
    if has_begun and weak(event.version) > row.status_version and row.stripe_status is None:
        changes |= {"status": SubscriptionStatus.ACTIVE, "status_version": weak(event.version)}
    return with_derived(_with_stripe_status(replace(row, **changes)), config)


def apply_invoice_paid(row: Subscription, event: Event[StripeInvoice], config: Config) -> Subscription:
    """The row after a paid invoice."""
    return _after_invoice(row, event, invoice_facts.paid(row, event), config)


def apply_invoice_closed(row: Subscription, event: Event[StripeInvoice], config: Config) -> Subscription:
    """The row after a voided invoice: it is not owed. The status stays; subscription events change it."""
    return _after_invoice(row, event, invoice_facts.closed(row, event), config)


def apply_invoice_written_off(row: Subscription, event: Event[StripeInvoice], config: Config) -> Subscription:
    """The row after an invoice was marked uncollectible. The failure stays; subscription events change the status."""
    return _after_invoice(row, event, invoice_facts.written_off(row, event), config)


def apply_invoice_failed(
    row: Subscription, event: Event[StripeInvoice], *, is_settled: bool, config: Config
) -> Subscription:
    """The row after a failed payment. `is_settled`: the invoice is known to be paid."""
    return _after_invoice(row, event, invoice_facts.failed(row, event, is_settled=is_settled), config)


def plan_bought(row: Subscription, config: Config) -> str | None:
    """The plan that was bought, also after the subscription's end. None if no plan has the price.

    A plan named at checkout that the config does not have is ignored (behaviours.md B2).
    """
    if row.checkout_plan in config.plans and row.price_id == row.first_price_id:
        return row.checkout_plan
    return config.plan_of_price(row.price_id)


def main_item(items: Sequence[Item], config: Config) -> Item | None:
    """Returns the item that decides the plan (behaviours.md B7): that of the largest plan, whatever its position.

    Without such an item, the first one that is not billed by usage.
    """
    priced = [item for item in items if item["price"] is not None]
    if not priced:
        return None
    if len(priced) == 1:
        return priced[0]

    def size(item: Item) -> tuple[int, bool]:
        return config.size_of_plan(config.plan_of_price(item["price"])), item["usage_type"] != "metered"

    return max(priced, key=size)  # max returns the first of equal ones


def with_derived(row: Subscription, config: Config) -> Subscription:
    """The row with its derived columns: price, status, failed invoice and plan. Nothing changes if they are current."""
    row = _settled(row) if "tied" in row.newest else row
    changes: dict[str, Any] = {}
    item = main_item(row.items, config)
    if item is not None:
        changes |= {"price_id": item["price"], **{name: item[name] for name in _MAIN}}
    failed = invoice_facts.owed(row)
    status, status_version = _status(row, failed)
    changes |= {
        "status": status,
        "status_version": status_version,
        "failed_invoice": failed,
        "payment_failed_at": invoice_facts.first_failed_at(row, failed) if failed else None,
        "payment_attempts": row.invoices[failed]["attempts"] if failed else 0,
    }
    row = replace(row, **changes)
    return replace(row, plan=FREE_PLAN if row.status in ENDED else plan_bought(row, config))


def rederived(row: Subscription, config: Config) -> Subscription:
    """The row as any event of this moment would derive it, without a new fact. The config may have changed since."""
    return with_derived(_with_stripe_status(row), config)


def _status(row: Subscription, failed_invoice: str | None) -> tuple[SubscriptionStatus, Version]:
    """Returns the status that Stripe reported, unless the latest invoice has newer facts."""
    latest = invoice_facts.latest_of(row)
    fact = row.invoices.get(latest, {}) if latest is not None else {}
    paid, failed = Version(fact.get("paid", "")), Version(fact.get("failed", ""))
    is_owed = bool(failed) and failed_invoice == latest
    said = row.stripe_status
    if said is None:
        return _status_unreported(row, fact, is_owed=is_owed)
    # Within one second, too: the payment ends what these statuses report, and the event that says so may be missing.
    is_paid = bool(paid) and seconds_of(paid) >= seconds_of(row.version)
    if is_paid and (said in _UNPAID or (said is SubscriptionStatus.INCOMPLETE and fact["bills"])):
        return SubscriptionStatus.ACTIVE, max(paid, row.version)
    if is_owed and failed > row.version and said is SubscriptionStatus.ACTIVE:
        return SubscriptionStatus.PAST_DUE, failed
    return said, row.version


def _status_unreported(
    row: Subscription, fact: Mapping[str, Any], *, is_owed: bool
) -> tuple[SubscriptionStatus, Version]:
    """The status before the first subscription event: what its latest invoice or its checkout implies."""
    if fact.get("paid") and fact["bills"]:
        return SubscriptionStatus.ACTIVE, Version(fact["paid"])
    if is_owed and fact["reason"] != FIRST_INVOICE:
        return SubscriptionStatus.PAST_DUE, Version(fact["failed"])
    by_checkout = row.status_version.startswith(WEAK)
    return (row.status, row.status_version) if by_checkout else (SubscriptionStatus.INCOMPLETE, UNSEEN)


def _after_invoice(
    row: Subscription, event: Event[StripeInvoice], facts: invoice_facts.Facts, config: Config
) -> Subscription:
    newest = max(row.billing_version, event.version)
    return with_derived(replace(_with_stripe_status(row), invoices=facts, billing_version=newest), config)


def _with_stripe_status(row: Subscription) -> Subscription:
    """A row of before revision 0012, which the backfill has not reached, has Stripe's status in `status`."""
    if row.stripe_status is not None or row.version == UNSEEN:
        return row
    return replace(row, stripe_status=row.status)


def _snapshot(event: Event[StripeSubscription], items: list[Item]) -> same_second.Snapshot:
    """What the event says, in JSON. Times are seconds since the epoch, as in its previous attributes."""
    facts = {name: _json(getattr(event.object, name)) for name in _FACTS}
    facts |= {"stripe_status": str(status_of(event)), "items": items}
    return {"version": version_of(event), "previous": previous_values(event.previous), "facts": facts}


def _stored(row: Subscription) -> same_second.Snapshot:
    """What the only event of the second of the row's version said."""
    facts = {name: _json(getattr(row, name)) for name in _FACTS}
    facts |= {"stripe_status": str(row.stripe_status or row.status)}
    facts |= {"items": list(row.items) if row.items_version == row.version else []}
    return {"version": row.version, "facts": facts}


def _settled(row: Subscription) -> Subscription:
    """The row with what the latest event of its second shows. Its invoices may have shown since which one that is."""
    tied: Sequence[same_second.Snapshot] = row.newest["tied"]

    def is_likely(one: same_second.Snapshot) -> tuple[bool, ...]:
        return not _is_refuted(row, one), bool(one["facts"]["stripe_status"] != SubscriptionStatus.INCOMPLETE)

    before = earlier_state.state_of(row)
    latest = same_second.latest_of(tied, _shown, is_likely, before)
    changes: dict[str, Any] = {**_columns(latest["facts"]), "version": Version(latest["version"])}
    if naming := [one for one in tied if one["facts"]["items"]]:
        latest = same_second.latest_of(naming, _shown, is_likely, before)
        changes |= {"items": latest["facts"]["items"], "items_version": Version(latest["version"])}
    return replace(row, **changes)


def _is_refuted(row: Subscription, one: same_second.Snapshot) -> bool:
    """Whether an event shows the subscription unpaid whose latest invoice was paid, voided or written off.

    Then it is not the last one. Of a change and its reversal within one second, that is the only evidence. The event of
    the invoice may have the next second.
    """
    if one["facts"]["stripe_status"] not in _UNPAID:
        return False
    fact = row.invoices.get(one["facts"]["latest_invoice"] or "", {})
    return any(fact.get(name) for name in ("paid", "closed", "written_off"))


def _shown(one: same_second.Snapshot) -> dict[str, Any]:
    """What an event shows, in the form of `previous_values` in schemas/stripe/subscription.py."""
    facts = one["facts"]
    shown = {**facts, "status": facts["stripe_status"]}
    if items := facts.get("items"):
        shown["prices"] = sorted(item["price"] for item in items if item["price"] is not None)
        shown["quantity"] = items[0]["quantity"] if len(items) == 1 else None
    return shown


def _columns(facts: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: _time(facts[name]) if name in _TIMES else facts[name] for name in _FACTS if name in facts}
    return columns | {"stripe_status": SubscriptionStatus(facts["stripe_status"])}


def plain_items(items: Iterable[SubscriptionItem]) -> list[Item]:
    """Returns the items as the column `items` has them. No field is a model, so `model_dump` has nothing to convert."""
    return [dict(vars(item)) for item in items]


def _price_of(items: Sequence[Item], config: Config) -> str | None:
    item = main_item(items, config)
    return item["price"] if item is not None else None


def _json(value: Any) -> Any:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def _time(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
