"""Computes the state of each of an owner's subscriptions after each second that has a fact.

A pure function of the set of facts. They are sorted by Stripe's second and the rank of their type, so it does not
matter in which order, how often or how late they arrived.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType

from analytics.imported import with_history
from analytics.rates import rounded
from analytics.same_second import chained
from schemas.figures import Fact, FactKind
from schemas.settings import Config
from schemas.statuses import SubscriptionStatus as Status
from schemas.stripe.invoice import FIRST_INVOICE, StripeInvoice
from streams.rules.subscription_row import ENDED

EARNING = frozenset({Status.ACTIVE, Status.PAST_DUE})
"""Statuses that count as MRR. Past due is revenue at risk. A trial, paused, unpaid and cancelled do not count."""

_PAID_BACK = frozenset({Status.PAST_DUE, Status.UNPAID, Status.INCOMPLETE, Status.TRIALING})
"""Statuses that a paid invoice changes to active, before or without a subscription event."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one subscription. `rates` is what it is worth a month by plan, in minor units, with any status."""

    status: Status | None = None
    currency: str | None = None
    rates: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def earns(self) -> Mapping[str, int]:
        """MRR by plan, in minor units. Empty if the status does not count as MRR."""
        return self.rates if self.status in EARNING else {}

    @property
    def mrr(self) -> int:
        return sum(self.earns.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """One second (UTC), and the state of all of the owner's subscriptions at its end, by id."""

    at: datetime
    standings: Mapping[str, Standing]


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Returns the facts, one per event, sorted by second, rank, what a change says of the one before, and event id."""
    distinct = {fact.event_id: fact for fact in facts}
    return chained(sorted(distinct.values(), key=lambda fact: (fact.created, fact.rank, fact.event_id)))


def timeline(
    facts: Iterable[Fact], config: Config, before: Mapping[str, Standing] = MappingProxyType({})
) -> Iterator[Moment]:
    """Yields the owner's moments, earliest first. All `facts` must belong to one owner.

    `before` has the standings that earlier facts have left.
    """
    standings: dict[str, Standing] = defaultdict(Standing, before)
    for at, together in groupby(in_order(with_history(in_order(facts))), key=lambda fact: fact.created):
        for fact in together:
            _apply(standings, fact, config)
        yield Moment(at, dict(standings))


def _apply(standings: dict[str, Standing], fact: Fact, config: Config) -> None:
    match fact.kind:
        case FactKind.SUBSCRIPTION:
            before = standings[fact.subject]
            if before.status not in ENDED:  # a subscription that has ended never restarts under the same id
                standings[fact.subject] = _standing_of(fact, config)
        case FactKind.INVOICE_PAID | FactKind.INVOICE_FAILED:
            invoice = StripeInvoice.model_validate(fact.data)
            if invoice.subscription is not None and invoice.bills_subscription:
                before = standings[invoice.subscription]
                status = _after_invoice(before.status, fact.kind, invoice)
                standings[invoice.subscription] = replace(before, status=status)
        case FactKind.INVOICE_GIVEN_UP | FactKind.PURCHASE | FactKind.REFUND:
            pass


def _standing_of(fact: Fact, config: Config) -> Standing:
    exact: dict[str, list[Fraction]] = defaultdict(list)
    for price_id, rate in fact.data["rates"]:
        exact[config.plan_of_price(price_id) or price_id].append(Fraction(rate))
    rates = {plan: value for plan, parts in exact.items() if (value := rounded(parts))}
    currency = fact.data["currency"]
    return Standing(Status(fact.data["status"]), currency, rates if currency else {})


def _after_invoice(status: Status | None, kind: FactKind, invoice: StripeInvoice) -> Status | None:
    if kind is FactKind.INVOICE_PAID:
        return Status.ACTIVE if status in _PAID_BACK else status
    is_first = invoice.billing_reason == FIRST_INVOICE
    return Status.PAST_DUE if status is Status.ACTIVE and not is_first else status
