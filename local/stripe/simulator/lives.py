"""Random lives: what people, banks and operators do to one customer after another.

A life is a list of steps. A step that does not apply to the state at its time is left out, so any list is a life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from local.stripe.simulator.books import DAY_S, HOUR_S
from local.stripe.simulator.money_steps import MoneySteps
from local.stripe.simulator.subscription_steps import SubscriptionSteps

PAUSES_S = (0, 0, 1, HOUR_S, DAY_S, 4 * DAY_S, 9 * DAY_S, 31 * DAY_S, 62 * DAY_S)


@dataclass(frozen=True, slots=True)
class LifeStep:
    """A step, and the number that decides what it leaves open. The same step in the same state does the same."""

    name: str
    choice: int = 0


class Life(MoneySteps, SubscriptionSteps):
    """One person and what happens to them."""

    def live(self, steps: Iterable[LifeStep]) -> Life:
        """Takes one step after another, with a pause after each."""
        for step in steps:
            self.take(step)
            self.stripe.clock.advance(self.random.choice(PAUSES_S))
        return self

    def take(self, step: LifeStep) -> None:
        self.random = random.Random(step.choice)  # noqa: S311  # a simulation
        self.steps[step.name] += STEPS[step.name](self)

    def wait(self) -> bool:
        self.stripe.clock.advance(self.random.choice([31, 62]) * DAY_S)
        return True


STEPS: dict[str, Callable[[Life], bool]] = {
    name: getattr(Life, name)
    for name in (
        "subscribe", "subscribe_by_hand", "buy", "leave_checkout", "rename", "change_card", "renew_card", "detach_card",
        "give_subscription_own_card", "delete_customer", "pay_open_invoice", "close_invoice", "bill_by_hand",
        "give_credit", "refund", "dispute", "go_on_with_dispute", "change_price", "change_items", "change_trial",
        "pause", "resume", "schedule", "cancel", "wait",
    )
}  # fmt: skip
"""By name; each returns whether it applied."""

WEIGHTS = {
    "wait": 6,
    "subscribe": 2,
    "pay_open_invoice": 3,
    "refund": 4,
    "change_price": 2,
    "dispute": 2,
    "go_on_with_dispute": 5,
}
"""How often a random life takes a step, 1 unless it is named here."""


def random_steps(chance: random.Random, count: int) -> list[LifeStep]:
    """A beginning and `count` further steps."""
    names = list(STEPS)
    begin = chance.choice(["subscribe", "subscribe", "subscribe_by_hand", "buy"])
    chosen = [begin, *chance.choices(names, [WEIGHTS.get(name, 1) for name in names], k=count)]
    return [LifeStep(name, chance.randrange(2**16)) for name in chosen]
