"""Model of what a discount deducts from a subscription, for analytics.

Before 2025-09-30 (clover) a discount has its coupon in `coupon`; since then `source` has its id, or it if expanded.
Subscriptions name their discounts in `discounts`, older versions have one in `discount`. What is not understood is left
out: a fact about the subscription must not fail because of it. https://docs.stripe.com/api/discounts/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.stripe.fields import first

Terms = dict[str, Any]
"""`id`; `start` and `end` in seconds since the epoch, None if it has no end. If the coupon is known also `recurs`, and
`percent` (decimal text) or `amount` (minor units) with `currency`."""

_MOST_AMOUNT = 10**15


def discounts_of(obj: Mapping[str, Any]) -> tuple[list[str], list[Terms]]:
    """Returns the ids of the discounts of a subscription, an item or a customer in order, and the terms it contains."""
    named = obj.get("discounts")
    found = named if isinstance(named, list) and named else [obj.get("discount")]
    ids: list[str] = []
    known: list[Terms] = []
    for one in found:
        if isinstance(one, str):
            ids.append(one)
        elif isinstance(one, Mapping) and (terms := terms_of(one)) is not None:
            ids.append(terms["id"])
            known.append(terms)
    one = obj.get("discount")  # the versions that list ids may contain the first of them in full here
    if isinstance(one, Mapping) and found is named and (terms := terms_of(one)) is not None:
        known += [terms] if terms["id"] in ids and all(terms["id"] != other["id"] for other in known) else []
    return ids, known


def terms_of(discount: Mapping[str, Any]) -> Terms | None:
    """Returns what a discount deducts, None if it has no id. Without its coupon only `id`, `start` and `end`."""
    source = discount.get("source")
    coupon = first(discount.get("coupon"), source.get("coupon") if isinstance(source, Mapping) else None)
    # Very old discounts have no id. A subscription had only one then.
    id_ = first(discount.get("id"), discount.get("subscription"), discount.get("customer"))
    if not isinstance(id_, str):
        return None
    found: Terms = {"id": id_, "start": _time(discount.get("start")), "end": _time(discount.get("end"))}
    if not isinstance(coupon, Mapping):
        return found
    percent, amount, currency = coupon.get("percent_off"), coupon.get("amount_off"), coupon.get("currency")
    if isinstance(percent, int | float) and 0 < percent <= 100:
        found["percent"] = str(percent)
    elif isinstance(amount, int) and 0 < amount <= _MOST_AMOUNT and isinstance(currency, str):
        found |= {"amount": amount, "currency": currency.lower()}
    else:
        return found
    return found | {"recurs": coupon.get("duration") != "once"}


def _time(value: object) -> int | None:
    return value if type(value) is int else None
