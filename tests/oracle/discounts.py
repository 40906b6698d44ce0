"""Compares MRR after discounts with the coupons of the simulated Stripe (E2).

A discount that only has its coupon's id, as since clover, counts by the share that invoices show, from the second on
(docs/analytics.md). The older shape has the coupon itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from analytics.timeline import EARNING, Standing
from local.stripe.builder import Json
from local.stripe.simulator.books import Books
from schemas.settings import Config
from tests.oracle.figures import facts_by_owner, standings_of

_PER_MONTH = {"month": Fraction(1), "year": Fraction(1, 12)}
_PROVEN = 2
"""Invoices that show a discount prove that it recurs."""


def discount_faults(books: Books, events: Iterable[Json], shape: str, config: Config) -> list[str]:
    """Returns each subscription whose MRR is not its list price after the discounts that it or its customer has.

    `shape` is that of a Course: with `mixed` either form may have arrived.
    """
    standings = standings_of(facts_by_owner(events), config)
    return [line for one in books.all("subscription") for line in _faults(books, one, standings.get(one["id"]), shape)]


def _faults(books: Books, subscription: Json, standing: Standing | None, shape: str) -> Iterator[str]:
    rates = [Fraction(rate) for _, rate in standing.said.get("rates", ())] if standing is not None else []
    if standing is None or standing.status not in EARNING or not sum(rates):
        return
    customer = books.get("customer", subscription["customer"])
    own = recurring(subscription) or recurring(customer)
    interval = subscription["items"]["data"][0]["price"]["recurring"]["interval"]
    exact = _net(rates, own, subscription["currency"], _PER_MONTH[interval])
    listed = sum(rates, Fraction(0))
    wanted = {"old": [exact], "new": [_shown(books, rates, own)]}.get(shape)
    found = sum(standing.rates.values())
    if all(abs(found - one) > len(rates) for one in wanted or [exact, _shown(books, rates, own), listed]):
        names = ", ".join(one["_coupon"]["id"] for one in own) or "no coupon"
        yield f"{subscription['id']} with {names} earns {found} of {float(listed)}, not {wanted}"


def recurring(holder: Json) -> list[Json]:
    """Returns the discounts of a subscription or a customer that are for more than one invoice."""
    return [one for one in holder.get("_discounts", ()) if one["_coupon"]["duration"] != "once"]


def _net(rates: Sequence[Fraction], discounts: Iterable[Json], currency: str, per_month: Fraction) -> Fraction:
    left = sum(rates, Fraction(0))
    for coupon in (one["_coupon"] for one in discounts):
        if coupon["percent_off"] is not None:
            left *= 1 - Fraction(coupon["percent_off"]) / 100
        elif coupon["currency"] == currency:
            left = max(Fraction(0), left - coupon["amount_off"] * per_month)
    return left


def _shown(books: Books, rates: Sequence[Fraction], discounts: Iterable[Json]) -> Fraction:
    """Returns what is left by the newest paid invoice that shows each discount, if there are two of them."""
    left = sum(rates, Fraction(0))
    paid = sorted(
        (one for one in books.all("invoice") if one["status"] == "paid"),
        key=lambda one: int(one["status_transitions"]["paid_at"]),
    )
    for discount in discounts:
        shown = [found for invoice in paid if (found := _amounts(invoice, discount["id"])) is not None]
        if len(shown) >= _PROVEN:
            before, off = shown[-1]
            left *= 1 - Fraction(off, before)
    return left


def _amounts(invoice: Json, discount: str) -> tuple[int, int] | None:
    """Returns the amounts of the lines before this discount, and what it takes off; None if the invoice lacks it."""
    before, off = 0, 0
    for line in invoice["lines"]["data"]:
        left = line["amount"]
        for one in line["discount_amounts"]:
            if one["discount"] == discount:
                before, off = before + left, off + one["amount"]
            left -= one["amount"]
    return (before, off) if before else None
