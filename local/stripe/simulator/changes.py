"""What is changed in a running subscription: prices, quantities, items, trials, pauses, schedules."""

from __future__ import annotations

from collections.abc import Callable

from local.stripe.simulator.books import DAY_S, HOUR_S, Books, Json
from local.stripe.simulator.collection import collect
from local.stripe.simulator.discounts import in_force, left_of
from local.stripe.simulator.invoices import UPDATE, finalize, line, void
from local.stripe.simulator.periods import add_interval
from local.stripe.simulator.prices import PRICES, amount_of, shown
from local.stripe.simulator.renewals import advance_draft, plan
from local.stripe.simulator.subscriptions import (
    FIRST_PAYMENT_S,
    change,
    draft_of,
    item,
    items_of,
    lines_of,
    period_of,
    set_items,
    set_period,
)


def change_price(books: Books, subscription: Json, price: str, quantity: int, *, billing: str, if_paid: bool) -> None:
    """Gives the first item this price and quantity.

    `billing`: `now` makes an invoice of the difference at once, `next` adds it to the next one, `none` forgets it.
    `if_paid`: the change applies only once that invoice is paid (`payment_behavior=pending_if_incomplete`).
    """
    if PRICES[price]["recurring"]["interval"] != items_of(subscription)[0]["price"]["recurring"]["interval"]:
        _change_interval(books, subscription, price, quantity)
        return
    lines = _difference(books, subscription, price, quantity) if billing != "none" else []
    if billing == "now" and if_paid and sum(one["amount"] for one in lines) > 0:
        _change_if_paid(books, subscription, price, quantity, lines)
        return
    with books.change(subscription):
        _replace_first(subscription, price, quantity)
        if billing == "now" and lines:
            draft = draft_of(books, subscription, lines, UPDATE)
            subscription["latest_invoice"] = draft["id"]
        elif lines:
            subscription["_lines"] = [*subscription["_lines"], *lines]
    if billing == "now" and lines:
        finalize(books, draft)
        _collect(books, draft)


def _collect(books: Books, invoice: Json) -> None:
    if invoice["collection_method"] == "charge_automatically":
        collect(books, invoice)


def _difference(books: Books, subscription: Json, price: str, quantity: int) -> list[Json]:
    """Credit for the rest of the period at the old price, and its cost at the new one, both after percentages."""
    start, end_at = period_of(subscription)
    old = items_of(subscription)[0]
    share = (
        (end_at - books.now) / (end_at - start) if end_at > books.now and subscription["status"] != "trialing" else 0
    )
    former = old.get("quantity", 1)
    before = amount_of(PRICES[old["price"]["id"]], former, subscription["currency"])
    after = amount_of(PRICES[price], quantity, subscription["currency"])
    share *= float(left_of(in_force(books.get("customer", subscription["customer"]), subscription)))
    more = {"item": old["id"], "subscription": subscription["id"], "proration": True}
    pairs = (
        (-round(before * share), {"price": old["price"]["id"], "quantity": former}),
        (round(after * share), {"price": price, "quantity": quantity}),
    )
    return [
        line(books, amount, subscription["currency"], (books.now, end_at), **of, **more)
        for amount, of in pairs
        if amount
    ]


def _replace_first(subscription: Json, price: str, quantity: int) -> None:
    first, *others = items_of(subscription)
    changed = first | {"price": shown(PRICES[price]), "quantity": quantity}
    subscription["items"] = subscription["items"] | {"data": [changed, *others]}


def _change_interval(books: Books, subscription: Json, price: str, quantity: int) -> None:
    """A new period begins now, and the add-ons of the old interval end."""
    with books.change(subscription):
        _replace_first(subscription, price, quantity)
        set_items(books, subscription, items_of(subscription)[:1])
        if subscription["status"] != "trialing":
            set_period(subscription, books.now, add_interval(books.now, PRICES[price]["recurring"]["interval"]))
            subscription["billing_cycle_anchor"] = books.now
            draft = draft_of(books, subscription, lines_of(books, subscription), UPDATE)
            subscription["latest_invoice"] = draft["id"]
    if subscription["status"] == "trialing":
        return
    finalize(books, draft)
    _collect(books, draft)
    plan(books, subscription)


def _change_if_paid(books: Books, subscription: Json, price: str, quantity: int, lines: list[Json]) -> None:
    draft = draft_of(books, subscription, lines, UPDATE)
    draft["_pending"] = (price, quantity)
    expires_at = books.now + FIRST_PAYMENT_S
    first = items_of(subscription)[0] | {"price": shown(PRICES[price]), "quantity": quantity}
    pending = {
        "billing_cycle_anchor": None, "expires_at": expires_at, "subscription_items": [first],
        "trial_end": None, "trial_from_plan": None,
    }  # fmt: skip
    change(books, subscription, latest_invoice=draft["id"], pending_update=pending)
    finalize(books, draft)
    _collect(books, draft)
    books.clock.at(expires_at, lambda: _expire_pending(books, subscription, draft))


def on_pending_paid(books: Books, invoice: Json) -> None:
    subscription = books.get("subscription", invoice["_subscription"])
    price, quantity = invoice["_pending"]
    if subscription["pending_update"] is None or subscription["status"] not in ("active", "trialing", "past_due"):
        return
    with books.change(subscription):
        subscription["pending_update"] = None
        _replace_first(subscription, price, quantity)
    books.emit("customer.subscription.pending_update_applied", subscription)


def _expire_pending(books: Books, subscription: Json, invoice: Json) -> None:
    if subscription["pending_update"] is None or invoice["status"] != "open":
        return
    change(books, subscription, pending_update=None)
    books.emit("customer.subscription.pending_update_expired", subscription)
    void(books, invoice)


def add_item(books: Books, subscription: Json, price: str, *, first: bool) -> None:
    """An add-on from now on; `first`: Stripe lists it before the others."""
    added = item(books, subscription["id"], price, 1, period_of(subscription))
    items = items_of(subscription)
    with books.change(subscription):
        set_items(books, subscription, [added, *items] if first else [*items, added])


def remove_item(books: Books, subscription: Json, price: str) -> None:
    with books.change(subscription):
        set_items(books, subscription, [one for one in items_of(subscription) if one["price"]["id"] != price])


def move_trial(books: Books, subscription: Json, trial_end: int) -> None:
    """Gives, extends or shortens a trial; a past due subscription becomes trialing."""
    with books.change(subscription):
        subscription.update(status="trialing", trial_end=trial_end, billing_cycle_anchor=trial_end)
        subscription["trial_start"] = subscription["trial_start"] or books.now
        set_period(subscription, books.now, trial_end)
        draft = draft_of(books, subscription, lines_of(books, subscription, is_free=True), UPDATE)
        subscription["latest_invoice"] = draft["id"]
    finalize(books, draft)
    plan(books, subscription)


def end_trial(books: Books, subscription: Json) -> None:
    """Ends the trial now: the first period begins and is billed at once."""
    interval = items_of(subscription)[0]["price"]["recurring"]["interval"]
    with books.change(subscription):
        subscription.update(status="active", trial_end=books.now, billing_cycle_anchor=books.now)
        set_period(subscription, books.now, add_interval(books.now, interval))
        draft = draft_of(books, subscription, lines_of(books, subscription), UPDATE)
        subscription["latest_invoice"] = draft["id"]
    finalize(books, draft)
    _collect(books, draft)
    plan(books, subscription)


def pause_collection(books: Books, subscription: Json, behavior: str, resumes_at: int | None) -> None:
    """`behavior`: keep_as_draft, mark_uncollectible or void. The status stays."""
    pause = {"behavior": behavior, "resumes_at": resumes_at}
    change(books, subscription, pause_collection=pause)
    if resumes_at is not None:
        books.clock.at(
            resumes_at,
            lambda: resume_collection(books, subscription) if subscription["pause_collection"] == pause else None,
        )


def resume_collection(books: Books, subscription: Json) -> None:
    change(books, subscription, pause_collection=None)
    for invoice in books.of("invoice", subscription["customer"]):
        if invoice["_subscription"] == subscription["id"] and invoice["status"] == "draft":
            invoice["auto_advance"] = subscription["status"] != "unpaid"
            books.clock.at(books.now + HOUR_S, _advancing(books, subscription, invoice))


def _advancing(books: Books, subscription: Json, invoice: Json) -> Callable[[], None]:
    return lambda: advance_draft(books, subscription, invoice)


def schedule_change(books: Books, subscription: Json, price: str) -> None:
    """A schedule that changes the price at the end of the period, and lets go of the subscription a day later."""
    end_at = period_of(subscription)[1]
    schedule: Json = {
        "id": books.new_id("sub_sched"),
        "object": "subscription_schedule",
        "created": books.now,
        "customer": subscription["customer"],
        "end_behavior": "release",
        "livemode": False,
        "metadata": {},
        "phases": [{"start_date": end_at, "items": [{"price": price, "quantity": 1}]}],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": subscription["id"],
    }
    books.emit("subscription_schedule.created", books.add(schedule))
    change(books, subscription, schedule=schedule["id"])

    def phase() -> None:
        if subscription["schedule"] != schedule["id"] or subscription["status"] not in ("active", "past_due"):
            return
        with books.change(subscription):
            _replace_first(subscription, price, items_of(subscription)[0].get("quantity", 1))
        books.clock.at(books.now + DAY_S, lambda: release(books, subscription, schedule))

    books.clock.at(end_at + 1, phase)


def release(books: Books, subscription: Json, schedule: Json) -> None:
    if schedule["status"] != "active":
        return
    changes = {"status": "released", "released_at": books.now, "released_subscription": subscription["id"]}
    with books.change(schedule, "subscription_schedule.released"):
        schedule.update(changes, subscription=None)
    if subscription["status"] not in ("canceled", "incomplete_expired"):
        change(books, subscription, schedule=None)
