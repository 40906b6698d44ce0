"""Delivery of events to an endpoint as Stripe does it: signed, and on request with duplicates, disorder and outages.

The plan is pure and follows from the seed; posting it is the caller's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from local.stripe.simulator.books import DAY_S, StripeEvent

DISORDER_S = 2 * 3600
"""How much later an event may arrive than one that happened after it."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Delivery problems. In an outage nothing arrives, and nothing of it is sent again."""

    duplicates: float = 0.0
    """The share of events that arrive twice."""
    disorder: float = 0.0
    """The share of events that arrive late, up to DISORDER_S."""
    outages: int = 0
    outage_s: int = 4 * DAY_S
    """Longer than Stripe's three days of retries, so that what falls into it is lost."""


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt: when it arrives in the simulated time, and which event."""

    at: int
    event: StripeEvent


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    deliveries: list[DeliveryAttempt]
    """In the order of arrival."""
    lost: list[StripeEvent]
    """What fell into an outage: Stripe lists it with `delivery_success=false`."""


def plan_delivery(events: Sequence[StripeEvent], trouble: Trouble, seed: str) -> DeliveryPlan:
    """Returns the same plan for the same events, trouble and seed."""
    chance = random.Random(f"{seed}/delivery")  # noqa: S311  # a simulation
    outages = _outages(events, trouble, chance)
    deliveries, lost = [], []
    for event in events:
        if any(start <= event.created < end for start, end in outages):
            lost.append(event)
            continue
        late = chance.randrange(1, DISORDER_S) if chance.random() < trouble.disorder else 0
        deliveries.append(DeliveryAttempt(event.created + late, event))
        if chance.random() < trouble.duplicates:
            deliveries.append(DeliveryAttempt(event.created + late + chance.randrange(DISORDER_S), event))
    return DeliveryPlan(sorted(deliveries, key=lambda one: one.at), lost)


def by_second(deliveries: Sequence[DeliveryAttempt]) -> Iterator[tuple[int, list[DeliveryAttempt]]]:
    """What arrives at the same moment, moment by moment."""
    for at, group in groupby(deliveries, key=lambda one: one.at):
        yield at, list(group)


def _outages(events: Sequence[StripeEvent], trouble: Trouble, chance: random.Random) -> list[tuple[int, int]]:
    if not events:
        return []
    first, last = events[0].created, events[-1].created
    starts = [chance.randint(first, max(first, last - trouble.outage_s)) for _ in range(trouble.outages)]
    return [(start, start + trouble.outage_s) for start in starts]
