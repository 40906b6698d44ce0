"""Compares numbered lives with the simulated Stripe and prints what they covered.

    python -m tests.oracle.statistics --lives 10000 --first 0

The numbers are the seeds: life 17 is the same in each run. Exits 1 if a life differs, and names it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

from local.stripe.simulator.lives import STEPS
from local.stripe.simulator.stripe import SimulatedStripe
from tests.kits.lifekit import faults, lived, numbered_course, open_disagreements
from tests.oracle.stripe_books import COMPARED

SHOWN = 12
"""Transitions that are named; the others are added up."""


@dataclass(slots=True)
class Statistics:
    """What the lives covered. `differing` are the numbers of lives that differ, with the first difference."""

    lives: int = 0
    events: int = 0
    types: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    """Ties that only Stripe could settle."""
    differing: dict[int, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        shown = [f"{name} ({count})" for name, count in self.transitions.most_common(SHOWN)]
        rest = len(self.transitions) - len(shown)
        return [
            f"lives        {self.lives}, {len(self.differing)} of them differ",
            f"events       {self.events} of {len(self.types)} types",
            f"deliveries   {', '.join(f'{name} {count}' for name, count in sorted(self.deliveries.items()))}",
            f"steps        {sum(self.steps.values())} of {len(self.steps)} kinds ({len(STEPS)} exist)",
            f"transitions  {sum(self.transitions.values())} of {len(self.transitions)} kinds: {', '.join(shown)}"
            + (f", {rest} others" if rest else ""),
            f"compared     {sum(self.fields.values())} values of {len(self.fields)} columns",
            f"ties         {self.questions} were settled by asking Stripe",
            *(f"life {number}: {what}" for number, what in self.differing.items()),
        ]


def statistics(numbers: range) -> Statistics:
    """Lives the lives with these numbers."""
    found = Statistics(fields=Counter())
    before = Counter(COMPARED)
    for number in numbers:
        course = numbered_course(number)
        stripe, world = lived(course)
        found.lives += 1
        found.steps.update(step.name for step in course.steps)
        found.deliveries[f"{course.delivery}, {course.shape}"] += 1
        found.questions += sum(call.method == "GET" for call in world.calls.values())
        _count_events(stripe, found)
        if differing := open_disagreements(faults(course, stripe, world)):
            found.differing[number] = differing[0]
    found.fields = COMPARED - before
    return found


def _count_events(stripe: SimulatedStripe, found: Statistics) -> None:
    for event in stripe.events():
        found.events += 1
        found.types[event.type] += 1
        if event.type == "customer.subscription.updated":
            data = event.render()["data"]
            former = data.get("previous_attributes", {}).get("status")
            if former is not None:
                found.transitions[f"{former} → {data['object']['status']}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first life")
    asked = parser.parse_args()
    found = statistics(range(asked.first, asked.first + asked.lives))
    sys.stdout.write("\n".join([*found.lines(), ""]))
    return 1 if found.differing else 0


if __name__ == "__main__":
    sys.exit(main())
