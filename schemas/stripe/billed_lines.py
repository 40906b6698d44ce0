"""Model of what the lines of a paid invoice say about its subscription's items in the past, for analytics.

A line of a period says which price and quantity an item had from the period's start on. A proration says it from the
time of a change on: the cost of the new price is positive, the credit for the old one is negative.
https://docs.stripe.com/api/invoice-line-item/object
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.stripe.billed_subscription import BilledItem, billed_item
from schemas.stripe.fields import child, first, listed


@dataclass(frozen=True, slots=True)
class BilledLine:
    """From `start` (seconds since the epoch) on, the subscription's item `item_id` is `item`; None: it ended then."""

    start: int
    item_id: str
    item: BilledItem | None
    is_whole: bool
    """The line bills a period, so the lines of this start are all items of the subscription."""


def billed_lines(invoice: Mapping[str, Any], subscription: str | None) -> list[BilledLine]:
    """Returns what the lines of a subscription say, in no order. Raises pydantic's ValidationError.

    Lines without their price, free ones (a trial) and invoices that leave lines out say nothing.
    """
    if subscription is None or child(invoice, "lines").get("has_more") is True:
        return []
    found: dict[tuple[int, str], BilledLine] = {}
    for line in listed(invoice, "lines"):
        start, amount = child(line, "period").get("start"), line.get("amount")
        details = child(child(line, "parent"), "subscription_item_details")
        item_id = first(details.get("subscription_item"), line.get("subscription_item"))
        price = line.get("price")
        own = first(details.get("subscription"), line.get("subscription"), subscription)
        if not isinstance(price, Mapping) or type(start) is not int or type(amount) is not int:
            continue
        if not isinstance(item_id, str) or own != subscription or not amount:
            continue
        is_proration = first(details.get("proration"), line.get("proration"), False) is True
        item = BilledItem.model_validate(billed_item(line, price, line.get("currency"))) if amount > 0 else None
        if item is None and not is_proration:
            continue
        before = found.get((start, item_id))
        if before is None or before.item is None:  # a credit beside the cost of the new price ends nothing
            found[start, item_id] = BilledLine(start, item_id, item, not is_proration)
    return _without_partial(list(found.values()))


def discounted(invoice: Mapping[str, Any]) -> dict[str, list[int]]:
    """Returns the amounts before and off, in minor units, of the lines that each discount is deducted from, by id.

    Discounts of a line follow each other: the amount before one is what those before it have left.
    """
    found: dict[str, list[int]] = {}
    for line in listed(invoice, "lines"):
        left = line.get("amount")
        if type(left) is not int or left <= 0:
            continue
        for id_, off in _discounts(line):
            sums = found.setdefault(id_, [0, 0])
            sums[0] += left
            sums[1] += off
            left -= off
    return found


def billed_by_price(invoice: Mapping[str, Any], subscription: str | None) -> dict[str, int]:
    """Returns what an invoice bills after discounts, in minor units, by price, without prorations.

    Empty without a subscription, and if the invoice leaves lines out.
    """
    found: dict[str, int] = {}
    if subscription is None or child(invoice, "lines").get("has_more") is True:
        return found
    for line in listed(invoice, "lines"):
        details = child(child(line, "parent"), "subscription_item_details")
        price, amount = _price_id(line), line.get("amount")
        own = first(details.get("subscription"), line.get("subscription"), subscription)
        is_proration = first(details.get("proration"), line.get("proration"), False) is True
        if price is not None and type(amount) is int and own == subscription and not is_proration:
            found[price] = found.get(price, 0) + amount - sum(off for _, off in _discounts(line))
    return found


def _discounts(line: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns the ids of a line's discounts with the amounts off. Discounts in another form say nothing."""
    found = line.get("discount_amounts")
    return [
        (id_, one["amount"])
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, Mapping) and type(one.get("amount")) is int
        and isinstance(id_ := _id(one.get("discount")), str)
    ]  # fmt: skip


def _price_id(line: Mapping[str, Any]) -> str | None:
    price = line.get("price") or line.get("plan")
    details = child(child(line, "pricing"), "price_details")
    found = first(_id(price), _id(details.get("price")))
    return found if isinstance(found, str) else None


def _id(named: Any) -> Any:
    return named.get("id") if isinstance(named, Mapping) else named


def _without_partial(lines: Sequence[BilledLine]) -> list[BilledLine]:
    """Periods of one invoice start together; a metered item is billed for the past period and says nothing."""
    starts = [line.start for line in lines if line.is_whole]
    return [line for line in lines if not line.is_whole or line.start == max(starts)]
