"""Inside the figures: how each of an owner's subscriptions stood after each second in which anything was told of it.

A pure function of the set of facts: they are sorted by Stripe's second and the rank of their type, so it does not
matter in which order, how often or how late they came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType

from analytics.rates import rounded
from schemas.figures import Fact, FactKind
from schemas.settings import Config
from schemas.state import SubscriptionStatus as Status
from schemas.stripe.invoice import FIRST_INVOICE, StripeInvoice
from streams.rules.subscription_row import ENDED

EARNING = frozenset({Status.ACTIVE, Status.PAST_DUE})
"""Past due is revenue at risk; a trial is none yet; paused, unpaid and cancelled are none any more."""

_PAID_BACK = frozenset({Status.PAST_DUE, Status.UNPAID, Status.INCOMPLETE, Status.TRIALING})
"""What a paid invoice makes active, before or without Stripe's own word."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one subscription stands. `rates` is what it is worth a month by plan, whatever its status."""

    status: Status | None = None
    currency: str | None = None
    rates: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def earns(self) -> Mapping[str, int]:
        """MRR by plan."""
        return self.rates if self.status in EARNING else {}

    @property
    def mrr(self) -> int:
        return sum(self.earns.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """One second, and how all of the owner's subscriptions stand at its end, by id."""

    at: datetime
    standings: Mapping[str, Standing]


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Each event once, by second, rank and id."""
    distinct = {fact.event_id: fact for fact in facts}
    return sorted(distinct.values(), key=lambda fact: (fact.created, fact.rank, fact.event_id))


def timeline(facts: Iterable[Fact], config: Config) -> Iterator[Moment]:
    """The owner's moments, earliest first. `facts` are one owner's."""
    standings: dict[str, Standing] = defaultdict(Standing)
    for at, together in groupby(in_order(facts), key=lambda fact: fact.created):
        for fact in together:
            _tell(standings, fact, config)
        yield Moment(at, dict(standings))


def _tell(standings: dict[str, Standing], fact: Fact, config: Config) -> None:
    match fact.kind:
        case FactKind.SUBSCRIPTION:
            before = standings[fact.subject]
            if before.status not in ENDED:  # nothing comes after its end under the same id
                standings[fact.subject] = _said(fact, config)
        case FactKind.INVOICE_PAID | FactKind.INVOICE_FAILED:
            invoice = StripeInvoice.model_validate(fact.data)
            if invoice.subscription is not None and invoice.bills_subscription:
                before = standings[invoice.subscription]
                status = _after_invoice(before.status, fact.kind, invoice)
                standings[invoice.subscription] = replace(before, status=status)
        case FactKind.INVOICE_GIVEN_UP | FactKind.PURCHASE | FactKind.REFUND:
            pass


def _said(fact: Fact, config: Config) -> Standing:
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
