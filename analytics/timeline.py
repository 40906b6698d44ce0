"""Computes the state of each of an owner's subscriptions after each second that has a fact.

A pure function of the set of facts. They are sorted by Stripe's second and the rank of their type, so it does not
matter in which order, how often or how late they arrived. A discount begins and ends by itself: that is a moment, too,
as soon as a later fact is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType
from typing import Any

from analytics import discounts
from analytics.imported import with_history
from analytics.rates import rounded
from analytics.same_second import chained, state_of
from schemas.figures import Fact, FactKind
from schemas.settings import Config
from schemas.statuses import SubscriptionStatus as Status
from schemas.stripe.invoice import FIRST_INVOICE, StripeInvoice
from streams.rules.subscription_row import ENDED

EARNING = frozenset({Status.ACTIVE, Status.PAST_DUE})
"""Statuses that count as MRR. Past due is revenue at risk. A trial, paused, unpaid and cancelled do not count."""

_PAID_BACK = frozenset({Status.PAST_DUE, Status.UNPAID, Status.INCOMPLETE, Status.TRIALING})
"""Statuses that a paid invoice changes to active, before or without a subscription event."""


OWNER = ""
"""The id of the entry among an owner's subscriptions that has what is said about discounts. It earns nothing."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one subscription. `rates` is what it is worth a month by plan, in minor units, with any status."""

    status: Status | None = None
    currency: str | None = None
    rates: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    listed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """As `rates`, before discounts."""
    said: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The keys of the newest fact that the rates are computed from, and `billed`: [usage in minor units, invoice id,
    seconds since the epoch] of its newest paid invoice, and `paused`: the MRR by plan that it had before its pause. Of
    OWNER: discounts.py."""

    @property
    def earns(self) -> Mapping[str, int]:
        """MRR by plan, in minor units. Empty if the status does not count as MRR."""
        return self.rates if self.status in EARNING else {}

    @property
    def lists(self) -> Mapping[str, int]:
        """As `earns`, before discounts."""
        return self.listed if self.status in EARNING else {}

    @property
    def mrr(self) -> int:
        return sum(self.earns.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """One second (UTC), and the state of all of the owner's subscriptions at its end, by id."""

    at: datetime
    standings: Mapping[str, Standing]


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Returns the facts, one per event, sorted by second, rank and event id."""
    distinct = {fact.event_id: fact for fact in facts}
    return sorted(distinct.values(), key=lambda fact: (fact.created, fact.rank, fact.event_id))


def timeline(
    facts: Iterable[Fact],
    config: Config,
    before: Mapping[str, Standing] = MappingProxyType({}),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Moment]:
    """Yields the owner's moments, earliest first. All `facts` must belong to one owner.

    `before` has the standings that earlier moments, up to `since`, have left. With `until`, discounts that begin or end
    after the last fact and before `until` have their moments, too.
    """
    standings: dict[str, Standing] = defaultdict(Standing, before)
    for at, together in groupby(in_order(with_history(in_order(facts))), key=lambda fact: fact.created):
        yield from _turns(standings, since, at, config)
        for fact in _in_turn(list(together), standings):
            _apply(standings, fact, config)
        _price(standings, at, config)
        yield Moment(at, dict(standings))
        since = at
    if until is not None:
        yield from _turns(standings, since, until, config)


def _in_turn(facts: Sequence[Fact], standings: Mapping[str, Standing]) -> Sequence[Fact]:
    """Returns the facts of one second in the order in which they became true."""
    if len(facts) == 1:
        return facts
    known = {id_: standings[id_] for fact in facts if (id_ := fact.subject) in standings}
    return chained(
        facts,
        {
            id_: state_of(standing.status, standing.said.get("rates", ()))
            for id_, standing in known.items()
            if standing.status is not None
        },
    )


def _turns(standings: dict[str, Standing], since: datetime | None, at: datetime, config: Config) -> Iterator[Moment]:
    """Yields the moments between two facts at which a discount begins or ends."""
    if since is None or OWNER not in standings:
        return
    for second in discounts.turns(standings[OWNER].said, int(since.timestamp()), int(at.timestamp())):
        turned = datetime.fromtimestamp(second, UTC)
        if _price(standings, turned, config):
            yield Moment(turned, dict(standings))


def _price(standings: dict[str, Standing], at: datetime, config: Config) -> bool:
    """Deducts the discounts of this time. Returns whether a rate has changed. Without discounts it does nothing."""
    if OWNER not in standings:
        return False
    owner, second, has_changed = standings[OWNER].said, int(at.timestamp()), False
    for id_, standing in standings.items():
        if not standing.said.get("rates"):
            continue
        exact = discounts.net(standing.said, owner, standing.currency, second)
        prices = [price_id for price_id, _ in standing.said["rates"]]
        rates = _by_plan(zip(prices, exact, strict=True), config) if standing.currency else {}
        if rates != standing.rates:
            standings[id_] = replace(standing, rates=rates)
            has_changed = True
    return has_changed


def _apply(standings: dict[str, Standing], fact: Fact, config: Config) -> None:
    match fact.kind:
        case FactKind.SUBSCRIPTION:
            before = standings[fact.subject]
            if terms := fact.data.get(discounts.TERMS):
                _note(standings, discounts.after_discount(_owner(standings), {discounts.TERMS: terms}, _second(fact)))
            if before.status not in ENDED:  # a subscription that has ended never restarts under the same id
                standings[fact.subject] = _standing_of(fact, before, config)
        case FactKind.DISCOUNT:
            _note(standings, discounts.after_discount(_owner(standings), fact.data, _second(fact)))
        case FactKind.INVOICE_PAID | FactKind.INVOICE_FAILED:
            invoice = StripeInvoice.model_validate(fact.data)
            if invoice.subscription is not None and invoice.bills_subscription and _is_latest(standings, invoice):
                before = standings[invoice.subscription]
                status = _after_invoice(before.status, fact.kind, invoice)
                standings[invoice.subscription] = replace(before, status=status)
            if fact.kind is FactKind.INVOICE_PAID:
                _apply_lines(standings, invoice, fact)
        case FactKind.INVOICE_GIVEN_UP | FactKind.PURCHASE | FactKind.REFUND:
            pass


def _is_latest(standings: Mapping[str, Standing], invoice: StripeInvoice) -> bool:
    """Whether the invoice can change the status: an unpaid one of before, or an extra one, does not (C1, C2)."""
    standing = standings.get(invoice.subscription or "")
    latest = standing.said.get("latest") if standing is not None else None
    return latest is None or latest == invoice.id


def _apply_lines(standings: dict[str, Standing], invoice: StripeInvoice, fact: Fact) -> None:
    """Applies what a paid invoice deducts by discounts, and what it bills by usage."""
    if found := fact.data.get("discounted"):
        _note(standings, discounts.after_invoice(_owner(standings), fact.subject, found))
    standing = standings.get(invoice.subscription or "")
    billed = fact.data.get("by_price", {})
    if standing is None or not any(price in billed for price in standing.said.get("usage", ())):
        return
    amount = sum(billed.get(price, 0) for price in standing.said["usage"])
    said = {**standing.said, "billed": [amount, fact.subject, _second(fact)]}
    standings[invoice.subscription or ""] = replace(standing, said=said)


def _owner(standings: Mapping[str, Standing]) -> Mapping[str, Any]:
    return standings[OWNER].said if OWNER in standings else _NOTHING


def _note(standings: dict[str, Standing], said: Mapping[str, Any]) -> None:
    standings[OWNER] = Standing(said=said)


def _second(fact: Fact) -> int:
    return int(fact.created.timestamp())


_SAID = ("latest", "rates", "discounts", "item_discounts", "per_month", "usage")


def _standing_of(fact: Fact, before: Standing, config: Config) -> Standing:
    currency = fact.data["currency"]
    listed = _by_plan(((price_id, Fraction(rate)) for price_id, rate in fact.data["rates"]), config) if currency else {}
    said = {name: fact.data[name] for name in _SAID if name in fact.data}
    if "billed" in before.said:
        said["billed"] = before.said["billed"]
    status = Status(fact.data["status"])
    if status is Status.PAUSED and (paused := before.earns or before.said.get("paused")):
        said["paused"] = dict(paused)
    return Standing(status, currency, listed, listed, said)


def _by_plan(rates: Iterable[tuple[str, Fraction]], config: Config) -> dict[str, int]:
    """Returns the sums by plan, in whole minor units; those that are 0 are left out."""
    exact: dict[str, list[Fraction]] = defaultdict(list)
    for price_id, rate in rates:
        exact[config.plan_of_price(price_id) or price_id].append(rate)
    return {plan: value for plan, parts in exact.items() if (value := rounded(parts))}


def _after_invoice(status: Status | None, kind: FactKind, invoice: StripeInvoice) -> Status | None:
    if kind is FactKind.INVOICE_PAID:
        return Status.ACTIVE if status in _PAID_BACK else status
    is_first = invoice.billing_reason == FIRST_INVOICE
    return Status.PAST_DUE if status is Status.ACTIVE and not is_first else status
