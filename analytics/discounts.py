"""Deducts recurring discounts from the monthly rates of a subscription's items. Pure.

What a discount deducts is known from its coupon: in the event of the discount, or of a subscription or customer that
contains it. Some events only name the discount. Then the invoices say which share it deducts, from the second one on,
because a discount for one invoice (`duration: once`) does not recur and is never deducted from MRR.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

TERMS, SHARES, OF_CUSTOMER = "terms", "shares", "discounts"
"""Keys of what an owner's facts say about discounts: terms by id, shares by id, the ids of the customer's own.

A share is a list: the ids of the first two invoices that show the discount, and the newest amounts before and off.
"""

_SHOWN_TWICE = 2
Said = Mapping[str, Any]


def after_discount(said: Said, data: Said, at: int) -> Said:
    """Returns what is known about an owner's discounts after a fact about one. `at` is its time."""
    terms = dict(said.get(TERMS, {}))
    own: Iterable[str] = said.get(OF_CUSTOMER, ())
    for one in data[TERMS]:
        known = (
            one if "recurs" in one else {**terms.get(one["id"], {}), **one}
        )  # only an event with its coupon changes it
        if data.get("has_ended"):
            known = {**known, "end": min(at, known.get("end") or at)}
        terms[one["id"]] = known
    if data.get("has_ended"):  # the other ones stay: Stripe reports the end of an exchanged one after the new one
        ended = {one["id"] for one in data[TERMS]}
        own = [id_ for id_ in own if id_ not in ended]
    elif data.get("own") is not None:
        own = data["own"]
    return {**said, TERMS: terms, OF_CUSTOMER: list(own)}


def after_invoice(said: Said, invoice_id: str, discounted: Mapping[str, Sequence[int]]) -> Said:
    """Returns what is known after a paid invoice: `discounted` has the amounts before and off, by discount.

    Several events may report one invoice as paid, and an import as well: it counts once.
    """
    shares = dict(said.get(SHARES, {}))
    for id_, (before, off) in discounted.items():
        invoices = shares.get(id_, [[]])[0]
        shares[id_] = [[*dict.fromkeys([*invoices, invoice_id])][:_SHOWN_TWICE], before, off]
    return {**said, SHARES: shares}


def net(subscription: Said, owner: Said, currency: str | None, at: int) -> list[Fraction]:
    """Returns the monthly rate of each item after the discounts that are in force at this time.

    Discounts of an item come first, then those of the subscription in order; a customer's discount counts for
    subscriptions without one that recurs and is in force. An amount off an invoice is shared in proportion.
    """
    rates = [Fraction(rate) for _, rate in subscription["rates"]]
    per_month = Fraction(subscription.get("per_month", 1))
    of_items: Mapping[str, Sequence[str]] = subscription.get("item_discounts", {})
    for index, (price_id, _) in enumerate(subscription["rates"]):
        for id_ in of_items.get(price_id, ()):
            (rates[index],) = _deducted([rates[index]], id_, owner, currency, per_month, at)
    of_subscription: Sequence[str] = subscription.get("discounts", ())
    recurs = any(_recurs(id_, owner, at) for id_ in of_subscription)
    for id_ in of_subscription if recurs else owner.get(OF_CUSTOMER, ()):
        rates = _deducted(rates, id_, owner, currency, per_month, at)
    return rates


def turns(owner: Said, begin: int, end: int) -> list[int]:
    """Returns the times after `begin` and before `end` at which a discount begins or ends, the earliest first."""
    terms = owner.get(TERMS, {}).values()
    return sorted({at for one in terms for at in (one["start"], one["end"]) if at is not None and begin < at < end})


def _recurs(id_: str, owner: Said, at: int) -> bool:
    """Whether the discount is in force at this time and known to recur, by its coupon or by two invoices."""
    terms = owner.get(TERMS, {}).get(id_, {})
    if (terms.get("start") or at) > at or ((end := terms.get("end")) is not None and end <= at):
        return False
    if "percent" in terms or "amount" in terms:
        return terms.get("recurs") is not False
    return len(owner.get(SHARES, {}).get(id_, ((),))[0]) >= _SHOWN_TWICE


def _deducted(
    rates: list[Fraction], id_: str, owner: Said, currency: str | None, per_month: Fraction, at: int
) -> list[Fraction]:
    total = sum(rates)
    if total <= 0 or not _recurs(id_, owner, at):
        return rates
    terms = owner.get(TERMS, {}).get(id_, {})
    off: Fraction
    if "percent" in terms:
        off = Fraction(terms["percent"]) / 100
    elif "amount" in terms:
        off = terms["amount"] * per_month / total if terms["currency"] == currency else Fraction(0)
    else:
        _, before, deducted = owner[SHARES][id_]
        off = Fraction(deducted, before) if before > 0 else Fraction(0)
    left = max(Fraction(0), 1 - off)
    return [rate * left for rate in rates]
