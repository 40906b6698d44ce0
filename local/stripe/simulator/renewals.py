"""What time does to a subscription: reminders, the end of a trial, the next period."""

from __future__ import annotations

from local.stripe.simulator.books import DAY_S, HOUR_S, Books, Json
from local.stripe.simulator.collection import collect
from local.stripe.simulator.customers import method_for
from local.stripe.simulator.endings import end
from local.stripe.simulator.invoices import CYCLE, finalize, mark_uncollectible, upcoming, void
from local.stripe.simulator.periods import add_interval
from local.stripe.simulator.subscriptions import (
    change,
    draft_of,
    items_of,
    lines_of,
    period_of,
    set_period,
)

WILL_END_S = 3 * DAY_S
UPCOMING_S = 7 * DAY_S
RENEWING = ("active", "past_due", "unpaid", "trialing")


def plan(books: Books, subscription: Json) -> None:
    """Sets what is due at the end of the present period. Called again when the period moves."""
    end_at = period_of(subscription)[1]
    if subscription["status"] == "trialing":
        books.clock.at(end_at - WILL_END_S, lambda: _warn(books, subscription, end_at))
    elif end_at - UPCOMING_S > books.now:
        books.clock.at(end_at - UPCOMING_S, lambda: _announce(books, subscription, end_at))
    books.clock.at(end_at, lambda: _renew(books, subscription, end_at))


def _is_current(subscription: Json, end_at: int) -> bool:
    return subscription["status"] in RENEWING and period_of(subscription)[1] == end_at


def _is_ending(subscription: Json, end_at: int) -> bool:
    cancel_at = subscription["cancel_at"]
    return bool(subscription["cancel_at_period_end"]) or (cancel_at is not None and cancel_at <= end_at)


def _warn(books: Books, subscription: Json, end_at: int) -> None:
    if _is_current(subscription, end_at) and subscription["status"] == "trialing":
        books.emit("customer.subscription.trial_will_end", subscription)


def _announce(books: Books, subscription: Json, end_at: int) -> None:
    if (
        _is_current(subscription, end_at)
        and subscription["status"] == "active"
        and not _is_ending(subscription, end_at)
    ):
        upcoming(books, subscription, lines_of(books, subscription), end_at)


def _renew(books: Books, subscription: Json, end_at: int) -> None:
    if not _is_current(subscription, end_at):
        return
    if _is_ending(subscription, end_at):
        end(books, subscription, "cancellation_requested")
        return
    is_trial_end = subscription["status"] == "trialing"
    if is_trial_end and method_for(books, subscription["customer"], subscription) is None:
        behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
        if behavior == "pause":
            _pause(books, subscription)
            return
        if behavior == "cancel":
            end(books, subscription, None)
            return
    next_period(books, subscription, {"status": "active"} if is_trial_end else {})


def next_period(books: Books, subscription: Json, changes: Json) -> None:
    """Begins the next period now: one update of the subscription, and a draft that is finalized an hour later."""
    interval = items_of(subscription)[0]["price"]["recurring"]["interval"]
    _record_usage(subscription)
    # The update shows period, status and latest invoice at once; the draft is made in between.
    with books.change(subscription):
        subscription.update(changes)
        set_period(subscription, books.now, add_interval(books.now, interval))
        draft = draft_of(books, subscription, lines_of(books, subscription), CYCLE)
        subscription["latest_invoice"] = draft["id"]
    if subscription["status"] == "unpaid":
        draft["auto_advance"] = False  # it stays a draft
    books.clock.at(books.now + HOUR_S, lambda: advance_draft(books, subscription, draft))
    plan(books, subscription)


def _record_usage(subscription: Json) -> None:
    """Metered items bill what was used in the period that ended."""
    for one in items_of(subscription):
        if one["price"]["recurring"]["usage_type"] == "metered":
            one["_usage"] = (one["current_period_start"] % 7) * 100


def advance_draft(books: Books, subscription: Json, draft: Json) -> None:
    """Finalizes and collects, unless the draft was deleted or the collection is paused."""
    if draft["status"] != "draft" or not draft["auto_advance"] or draft.get("_deleted"):
        return
    pause = subscription["pause_collection"]
    if pause is not None and pause["behavior"] == "keep_as_draft":
        draft["auto_advance"] = False
        return
    finalize(books, draft)
    if draft["status"] != "open":
        return
    if pause is None:
        if draft["collection_method"] == "charge_automatically":
            collect(books, draft)
    elif pause["behavior"] == "void":
        void(books, draft)
    else:
        mark_uncollectible(books, draft)


def _pause(books: Books, subscription: Json) -> None:
    change(books, subscription, status="paused")
    books.emit("customer.subscription.paused", subscription)


def resume(books: Books, subscription: Json) -> None:
    """A trial that was paused for want of a payment method goes on as a paying subscription."""
    next_period(books, subscription, {"status": "active"})
    books.emit("customer.subscription.resumed", subscription)
