"""Coupons, the discounts that they become, and what these deduct from an invoice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.periods import add_interval


def _coupon(id_: str, duration: str, months: int | None = None, **off: Any) -> Json:
    """`off`: percent_off, or amount_off in minor units with its currency."""
    coupon: Json = {
        "id": id_,
        "object": "coupon",
        "amount_off": None,
        "created": 1_700_000_000,
        "currency": None,
        "duration": duration,
        "duration_in_months": months,
        "livemode": False,
        "max_redemptions": None,
        "metadata": {},
        "name": None,
        "percent_off": None,
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }
    return coupon | off


COUPONS: Mapping[str, Json] = {
    coupon["id"]: coupon
    for coupon in (
        _coupon("QUARTER", "forever", percent_off=25.0),
        _coupon("QUARTER3", "repeating", 3, percent_off=25.0),
        _coupon("QUARTER1", "once", percent_off=25.0),
        _coupon("FREE", "forever", percent_off=100.0),
        _coupon("FIVE", "forever", amount_off=500, currency="eur"),
        _coupon("FIVE3", "repeating", 3, amount_off=500, currency="eur"),
        _coupon("FIVE1", "once", amount_off=500, currency="eur"),
    )
}
"""By id."""

PROMOTION_CODE = "promo_simulated"
"""What a customer enters at the checkout to get a coupon. Stripe names it in the discount."""


def give(books: Books, holder: Json, coupon: str, *, promotion_code: str | None = None) -> Json:
    """Gives a subscription or a customer this coupon in place of what they have. Returns the discount.

    Stripe reports the new discount first, then the end of the old one, then the change of its holder.
    """
    discount = begin(books, holder, coupon, promotion_code=promotion_code)
    with books.change(holder):
        old = _of(holder)
        _set(holder, [discount])
    for one in old:
        _emit_end(books, one)
    return discount


def begin(books: Books, holder: Json, coupon: str, *, promotion_code: str | None = None) -> Json:
    """Makes the discount and reports it. The holder does not have it yet."""
    is_subscription = holder["object"] == "subscription"
    months = COUPONS[coupon]["duration_in_months"]
    discount: Json = {
        "id": books.new_id("di"),
        "object": "discount",
        "checkout_session": None,
        "customer": holder["customer"] if is_subscription else holder["id"],
        "end": add_interval(books.now, "month", months) if months else None,
        "invoice": None,
        "invoice_item": None,
        "promotion_code": promotion_code,
        "source": {"coupon": coupon, "type": "coupon"},
        "start": books.now,
        "subscription": holder["id"] if is_subscription else None,
        "subscription_item": None,
        "_coupon": COUPONS[coupon],
    }
    books.emit("customer.discount.created", discount)
    if discount["end"] is not None:
        books.clock.at(discount["end"], lambda: end(books, holder, discount))
    return discount


def end(books: Books, holder: Json, discount: Json) -> None:
    """Takes the discount from its holder, if they still have it."""
    present = books.objects[holder["object"]].get(holder["id"], {})
    if present.get("deleted") or present.get("ended_at") or discount not in _of(holder):
        return
    with books.change(holder):
        _set(holder, [one for one in _of(holder) if one is not discount])
    _emit_end(books, discount)


def in_force(customer: Json, subscription: Json | None) -> list[Json]:
    """Returns the discounts of an invoice: the subscription's, or the customer's if it has none."""
    own = _unused(subscription) if subscription is not None else []
    return own or _unused(customer)


def use(books: Books, holders: Sequence[Json | None], used: Sequence[str]) -> None:
    """A coupon for one invoice ends with the first one that it is deducted from. `used` are ids of discounts."""
    for holder in filter(None, holders):
        for discount in _unused(holder):
            if discount["id"] in used and discount["_coupon"]["duration"] == "once":
                discount["_used"] = True
                books.clock.at(books.now, _ending(books, holder, discount))


def deduct(lines: Sequence[Json], discounts: Sequence[Json], currency: str) -> list[Json]:
    """Notes in each line what the discounts deduct, and returns the sums: `total_discount_amounts`.

    They follow each other. Prorations are after discounts already, and negative amounts have none.
    """
    sums: list[Json] = []
    for discount in discounts:
        found = [one for one in lines if one["discountable"] and _left(one) > 0]
        if not (offs := _offs([_left(one) for one in found], discount["_coupon"], currency)):
            continue
        for one, off in zip(found, offs, strict=True):
            one["discount_amounts"] = [*one["discount_amounts"], {"amount": off, "discount": discount["id"]}]
        sums.append({"amount": sum(offs), "discount": discount["id"]})
    return sums


def left_of(discounts: Sequence[Json]) -> Fraction:
    """Returns the share of a price that is left after the percentages. Prorations are charged and credited with it."""
    share = Fraction(1)
    for discount in discounts:
        share *= 1 - Fraction(discount["_coupon"]["percent_off"] or 0) / 100
    return share


def _offs(amounts: Sequence[int], coupon: Json, currency: str) -> list[int]:
    total = sum(amounts)
    if coupon["percent_off"] is not None:
        return [_rounded(Fraction(one) * Fraction(coupon["percent_off"]) / 100) for one in amounts]
    if coupon["currency"] != currency or not total:
        return []
    # In proportion; what is rounded off goes to the lines after.
    off, before, found, so_far = min(int(coupon["amount_off"]), total), 0, list[int](), 0
    for one in amounts:
        before += one
        share = _rounded(Fraction(off * before, total))
        found.append(share - so_far)
        so_far = share
    return found


def _rounded(value: Fraction) -> int:
    """Half up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def _left(line: Json) -> int:
    return int(line["amount"] - sum(one["amount"] for one in line["discount_amounts"]))


def _of(holder: Json) -> list[Json]:
    found: list[Json] = holder.get("_discounts", [])
    return found


def _unused(holder: Json) -> list[Json]:
    return [one for one in _of(holder) if not one.get("_used")]


def _set(holder: Json, discounts: list[Json]) -> None:
    holder["_discounts"] = discounts
    if holder["object"] == "subscription":
        holder["discounts"] = [one["id"] for one in discounts]
    else:
        holder["discount"] = discounts[0] if discounts else None


def _ending(books: Books, holder: Json, discount: Json) -> Any:
    return lambda: end(books, holder, discount)


def _emit_end(books: Books, discount: Json) -> None:
    books.emit("customer.discount.deleted", discount | {"end": books.now})
