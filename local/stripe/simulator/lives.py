"""Random lives: what people, banks and operators do to one customer after another.

A life is a list of steps. A step that does not apply to the state at its time is left out, so any list is a life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from local.stripe.simulator.books import DAY_S, HOUR_S
from local.stripe.simulator.money_steps import MoneySteps
from local.stripe.simulator.subscription_steps import SubscriptionSteps

PAUSES_S = (0, 0, 1, HOUR_S, DAY_S, 4 * DAY_S, 9 * DAY_S, 31 * DAY_S, 62 * DAY_S)


class Life(MoneySteps, SubscriptionSteps):
    """One person and what happens to them."""

    def live(self, steps: Sequence[str]) -> Life:
        for step in steps:
            if STEPS[step](self):
                self.steps[step] += 1
            self.stripe.clock.advance(self.random.choice(PAUSES_S))
        return self

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

WEIGHTS = {"wait": 6, "subscribe": 2, "pay_open_invoice": 3, "refund": 2, "change_price": 2}
"""How often a random life takes a step, 1 unless it is named here."""


def random_steps(chance: random.Random, count: int) -> list[str]:
    """A beginning and `count` further steps."""
    names = list(STEPS)
    begin = chance.choice(["subscribe", "subscribe", "subscribe_by_hand", "buy"])
    return [begin, *chance.choices(names, [WEIGHTS.get(name, 1) for name in names], k=count)]
