"""Subscriptions: how they begin, and what their invoices do to their status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local.stripe.simulator.books import DAY_S, HOUR_S, Books, Json, listing
from local.stripe.simulator.collection import collect
from local.stripe.simulator.discounts import PROMOTION_CODE, begin
from local.stripe.simulator.invoices import FIRST, create_draft, finalize, line, void
from local.stripe.simulator.periods import add_interval
from local.stripe.simulator.prices import PRICES, amount_of, shown

ENDED = ("canceled", "incomplete_expired")
FIRST_PAYMENT_S = 23 * HOUR_S
"""How long Stripe waits for the first payment, and for that of a pending update."""
SEND_INVOICE = "send_invoice"


def create_subscription(
    books: Books,
    customer: Json,
    items: Sequence[tuple[str, int]],
    *,
    trial_days: int = 0,
    currency: str | None = None,
    collection: str = "charge_automatically",
    is_flexible: bool = True,
    coupon: str | None = None,
    pays_at_once: bool = True,
    shows_start: bool = True,
    missing_method: str = "create_invoice",
    **more: Any,
) -> Json:
    """`items` are prices and quantities; `coupon` is one of COUPONS.

    `pays_at_once` False: the customer is at a checkout and pays later, or never. `shows_start` False: the event of the
    creation comes after the first payment and already has its status, as for a subscription made through the API.
    `missing_method`: what happens to a trial that ends without a payment method.
    """
    currency = currency or PRICES[items[0][0]]["currency"]
    trial_end = books.now + trial_days * DAY_S if trial_days else None
    id_ = books.new_id("sub")
    is_sent = collection == SEND_INVOICE
    subscription: Json = {
        "id": id_,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"enabled": False},
        "billing_cycle_anchor": trial_end or books.now,
        "billing_mode": {"type": "flexible" if is_flexible else "classic"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": collection,
        "created": books.now,
        "currency": currency,
        "customer": customer["id"],
        "days_until_due": 30 if is_sent else None,
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "ended_at": None,
        "items": listing([], f"/v1/subscription_items?subscription={id_}"),
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "pause_collection": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": books.now,
        "status": "trialing" if trial_end else "active" if is_sent else "incomplete",
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": missing_method}},
        "trial_start": books.now if trial_end else None,
        "_discounts": [],
        "_lines": [],
        "_unborn": True,
    } | more
    end = trial_end or add_interval(books.now, interval_of(items))
    set_items(books, subscription, [item(books, id_, price, quantity, (books.now, end)) for price, quantity in items])
    books.add(subscription)
    if coupon is not None:
        discount = begin(books, subscription, coupon, promotion_code=PROMOTION_CODE if coupon.endswith("3") else None)
        subscription.update(discounts=[discount["id"]], _discounts=[discount])
    if shows_start or is_sent:
        _emit_creation(books, subscription)
    _bill_start(books, customer, subscription, pays_at_once=pays_at_once)
    if subscription["_unborn"]:
        _emit_creation(books, subscription)
    if subscription["status"] == "incomplete":
        books.clock.at(books.now + FIRST_PAYMENT_S, lambda: _expire(books, subscription))
    books.hooks["begun"](books, subscription)
    return subscription


def _emit_creation(books: Books, subscription: Json) -> None:
    subscription["_unborn"] = False
    books.emit("customer.subscription.created", subscription)


def _bill_start(books: Books, customer: Json, subscription: Json, *, pays_at_once: bool) -> None:
    is_trial = subscription["status"] == "trialing"
    lines = lines_of(books, subscription, is_free=is_trial)
    draft = draft_of(books, subscription, lines, FIRST)
    if customer["currency"] is None:
        with books.change(customer):
            customer["currency"] = subscription["currency"]
    set_latest(books, subscription, draft)
    if subscription["collection_method"] == SEND_INVOICE and not is_trial:
        books.clock.at(books.now + HOUR_S, lambda: finalize(books, draft) if draft["status"] == "draft" else None)
        return
    finalize(books, draft)
    if pays_at_once:
        collect(books, draft)


def draft_of(books: Books, subscription: Json, lines: list[Json], reason: str) -> Json:
    """A draft with these lines and what is left over from earlier changes."""
    customer = books.get("customer", subscription["customer"])
    waiting, subscription["_lines"] = subscription["_lines"], []
    return create_draft(
        books,
        customer,
        [*waiting, *lines],
        reason,
        currency=subscription["currency"],
        subscription=subscription,
    )


def item(books: Books, subscription_id: str, price: str, quantity: int, period: tuple[int, int]) -> Json:
    obj: Json = {
        "id": books.new_id("si"),
        "object": "subscription_item",
        "created": books.now,
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "price": shown(PRICES[price]),
        "quantity": quantity,
        "subscription": subscription_id,
        "tax_rates": [],
    }
    if PRICES[price].get("_unit"):
        del obj["quantity"]  # a metered item has none
    return obj


def set_items(books: Books, subscription: Json, items: list[Json]) -> None:  # noqa: ARG001  # as the others are called
    subscription["items"] = listing(items, subscription["items"]["url"])


def items_of(subscription: Json) -> list[Json]:
    data: list[Json] = subscription["items"]["data"]
    return data


def set_period(subscription: Json, start: int, end: int) -> None:
    """Replaces the items, so that events that have been emitted keep theirs."""
    period = {"current_period_start": start, "current_period_end": end}
    subscription["items"] = subscription["items"] | {"data": [one | period for one in items_of(subscription)]}


def period_of(subscription: Json) -> tuple[int, int]:
    first = items_of(subscription)[0]
    return first["current_period_start"], first["current_period_end"]


def lines_of(books: Books, subscription: Json, *, is_free: bool = False) -> list[Json]:
    """One line for each item for its present period; a trial costs nothing."""
    lines = []
    for one in items_of(subscription):
        price, quantity = PRICES[one["price"]["id"]], one.get("quantity", 1)
        usage = one.get("_usage", 0)
        amount = 0 if is_free else amount_of(price, quantity, subscription["currency"]) + usage
        period = (one["current_period_start"], one["current_period_end"])
        more = {"price": price["id"], "item": one["id"], "subscription": subscription["id"], "quantity": quantity}
        lines.append(line(books, amount, subscription["currency"], period, **more))
    return lines


def set_latest(books: Books, subscription: Json, invoice: Json, **changes: Any) -> None:
    change(books, subscription, latest_invoice=invoice["id"], **changes)


def change(books: Books, subscription: Json, **changes: Any) -> None:
    """Emits one update, unless the event of the creation is still to come."""
    if subscription["_unborn"]:
        subscription.update(changes)
        return
    with books.change(subscription):
        subscription.update(changes)


def interval_of(items: Sequence[tuple[str, int]]) -> str:
    return str(PRICES[items[0][0]]["recurring"]["interval"])


def _expire(books: Books, subscription: Json) -> None:
    """The first invoice was not paid within 23 hours."""
    if subscription["status"] != "incomplete":
        return
    invoice = books.get("invoice", subscription["latest_invoice"])
    intent = books.get("payment_intent", invoice["_intent"]) if invoice["_intent"] else None
    if intent is not None and intent["status"] == "processing":
        books.clock.at(books.now + DAY_S, lambda: _expire(books, subscription))
        return
    change(books, subscription, status="incomplete_expired", ended_at=books.now, canceled_at=books.now)
    void(books, invoice)


def is_latest(subscription: Json, invoice: Json) -> bool:
    """Only the latest invoice moves a subscription."""
    return bool(subscription["latest_invoice"] == invoice["id"])


def on_paid(books: Books, invoice: Json) -> None:
    subscription = books.get("subscription", invoice["_subscription"])
    if subscription["status"] == "incomplete" and invoice["billing_reason"] == FIRST:
        change(books, subscription, status="active")
    elif invoice.get("_pending"):
        books.hooks["pending_paid"](books, invoice)
    elif is_latest(subscription, invoice) and subscription["status"] in ("past_due", "unpaid"):
        change(books, subscription, status="active")


def on_failed(books: Books, invoice: Json) -> None:
    """An invoice that is sent is past due at its date; a first one leaves the subscription incomplete."""
    subscription = books.get("subscription", invoice["_subscription"])
    is_own = invoice["collection_method"] != SEND_INVOICE and not invoice.get("_pending")
    if is_own and is_latest(subscription, invoice) and subscription["status"] == "active":
        change(books, subscription, status="past_due")


def on_overdue(books: Books, invoice: Json) -> None:
    subscription = books.get("subscription", invoice["_subscription"])
    if is_latest(subscription, invoice) and subscription["status"] == "active":
        change(books, subscription, status="past_due")


def on_closed(books: Books, invoice: Json) -> None:
    """The latest invoice was voided or written off, so nothing is owed for the present period."""
    subscription = books.get("subscription", invoice["_subscription"])
    if is_latest(subscription, invoice) and subscription["status"] == "past_due":
        change(books, subscription, status="active")
