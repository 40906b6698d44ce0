"""Compares the figures of analytics with the tables: what earns, its rate, what was paid and refunded (E2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import orjson

from analytics.compute import figures_of
from analytics.facts import fact_of
from analytics.timeline import EARNING, Standing, timeline
from local.stripe.builder import Json
from schemas.figures import Fact, PaymentFigure, PaymentKind
from schemas.settings import Config
from schemas.state import Payment, Subscription

_PER_MONTH = {"month": Fraction(1), "year": Fraction(1, 12), "week": Fraction(52, 12), "day": Fraction(365, 12)}


def figure_faults(
    events: Iterable[Json], subscriptions: Iterable[Subscription], payments: Iterable[Payment], config: Config
) -> list[str]:
    """Returns each difference between the figures of these events and the rows."""
    by_owner = facts_by_owner(events)
    standings = standings_of(by_owner, config)
    figures: list[PaymentFigure] = []
    for facts in by_owner.values():
        figures += [row for row in figures_of(facts, config) if isinstance(row, PaymentFigure)]
    return [*_of_subscriptions(standings, subscriptions), *_of_money(figures, payments)]


def facts_by_owner(events: Iterable[Json]) -> Mapping[Any, Sequence[Fact]]:
    """Returns the facts of these events by owner."""
    found: dict[Any, list[Fact]] = defaultdict(list)
    for event in events:
        if (fact := fact_of(orjson.dumps(event))) is not None:
            found[fact.of].append(fact)
    return found


def standings_of(by_owner: Mapping[Any, Sequence[Fact]], config: Config) -> dict[str, Standing]:
    """Returns what each subscription earns after the last of its facts, by id."""
    found: dict[str, Standing] = {}
    for facts in by_owner.values():
        for moment in timeline(facts, config):
            found.update(moment.standings)
    return found


def _of_subscriptions(standings: Mapping[str, Standing], rows: Iterable[Subscription]) -> Iterator[str]:
    for row in rows:
        standing = standings.get(row.subscription_id)
        earns = row.status in EARNING and row.pause_collection is None
        if earns != (standing is not None and standing.status in EARNING):
            yield f"{row.subscription_id} is {row.status}, and {standing.status if standing else 'unknown'} in figures"
        elif earns and standing is not None and all(map(_has_amount, row.items)):
            rate, listed = sum(map(_monthly, row.items), Fraction(0)), sum(standing.lists.values())
            if abs(rate - listed) > len(row.items):  # each plan is rounded once
                yield f"{row.subscription_id} has a rate of {float(rate)}, and {listed} in figures"


def _has_amount(item: Mapping[str, Any]) -> bool:
    """Figures also count fractions of the minor unit, which a row cannot hold."""
    return item["usage_type"] == "metered" or item["unit_amount"] is not None


def _monthly(item: Mapping[str, Any]) -> Fraction:
    if item["usage_type"] == "metered" or item["unit_amount"] is None or item["interval"] is None:
        return Fraction(0)
    units = 1 if item["quantity"] is None else int(item["quantity"])
    if (size := item["divide_by"]) is not None:
        units = -(-units // size) if item["round"] == "up" else units // size
    return Fraction(item["unit_amount"] * units) * _PER_MONTH[item["interval"]] / (item["interval_count"] or 1)


def _of_money(figures: Iterable[PaymentFigure], rows: Iterable[Payment]) -> Iterator[str]:
    """Payments that are neither of an invoice nor of a checkout are documented as not counted."""
    counted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for figure in figures:
        if figure.kind is not PaymentKind.FAILED:
            counted[figure.kind is PaymentKind.REFUND][figure.currency] += figure.amount
    stored: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for row in rows:
        if row.paid_at is not None and (row.invoice_id is not None or row.checkout_session_id is not None):
            stored[False][row.currency] += row.amount
        stored[True][row.currency] += row.refunded_amount
    for is_refund, name in ((False, "paid"), (True, "refunded")):
        ours, theirs = +stored[is_refund], +counted[is_refund]
        if ours != theirs:
            yield f"{name} {dict(ours)}, and {dict(theirs)} in figures"
