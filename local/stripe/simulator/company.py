"""Months of a company's billing: many random lives side by side, on one clock."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from local.stripe.simulator.books import DAY_S, StripeEvent
from local.stripe.simulator.lives import PAUSES_S, Life, LifeStep, random_steps
from local.stripe.simulator.stripe import SimulatedStripe

MONTH_S = 30 * DAY_S
STEPS_A_MONTH = 2


@dataclass(slots=True)
class Company:
    """`customers` people over the `months` before `until` (seconds since the epoch). The same seed gives the same."""

    customers: int
    months: int
    seed: int
    until: int
    stripe: SimulatedStripe = field(init=False)
    steps: Counter[str] = field(default_factory=Counter)
    """Steps of all lives, by name."""
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.stripe = SimulatedStripe(self.until - self.months * MONTH_S, f"company-{self.seed}")
        self._chance = random.Random(self.seed)  # noqa: S311  # a simulation

    def run(self) -> list[StripeEvent]:
        """Lives every life up to the end, and returns the events in the order in which they happened."""
        self.begin()
        self.live_until(self.until)
        return self.stripe.events()

    def live_until(self, moment: int) -> None:
        """Lives up to this second. `begin` comes first."""
        self.stripe.clock.advance(moment - self.stripe.clock.now)

    def begin(self) -> None:
        """Plans every life."""
        start = self.stripe.clock.now
        for number in range(1, self.customers + 1):
            name = f"person{number}"
            life = Life(
                self.stripe, self.stripe.books, steps=self.steps, user=f"user_{self.seed}_{number}", mailbox=name
            )
            life.name = f"Person {number}"
            moment = start + self._chance.randrange(max(1, self.months * MONTH_S))
            for step in random_steps(self._chance, max(1, self.months * STEPS_A_MONTH)):
                self._plan(life, moment, step)
                moment += self._chance.choice(PAUSES_S)

    def _plan(self, life: Life, moment: int, step: LifeStep) -> None:
        if moment < self.until and step.name != "wait":
            self.stripe.clock.at(moment, lambda: life.take(step))

    def transitions(self) -> Counter[str]:
        """How often a subscription went from one status to another, as its events say."""
        found: Counter[str] = Counter()
        for event in self.stripe.events():
            if event.type == "customer.subscription.updated":
                rendered = event.render()
                before = rendered["data"].get("previous_attributes", {}).get("status")
                if before is not None:
                    found[f"{before} → {rendered['data']['object']['status']}"] += 1
        return found
