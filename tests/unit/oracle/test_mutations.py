"""The simulated lives find each mistake of tests/oracle/mutations.py within 1,000 lives."""

from __future__ import annotations

import random

import pytest

from local.stripe.simulator.books import AccountSettings
from local.stripe.simulator.lives import random_steps
from tests.kits.lifekit import Course, differences, open_disagreements
from tests.oracle.mutations import MUTATIONS, Mutation

LIVES = 1000
FIRST = (108, 233)
"""The lives that find the two rarest mistakes are tried first: about two seconds less than in the order of numbers."""


def course(number: int) -> Course:
    """The same courses in each run."""
    chance = random.Random(number)
    return Course(
        random_steps(chance, chance.randrange(3, 12)),
        AccountSettings(after_retries=chance.choice(["cancel", "unpaid", "past_due"])),
        shape=chance.choice(["new", "old", "mixed"]),
        delivery=chance.choice(["ordered", "shuffled", "lost"]),
        order=number,
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_mistake_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    assert any(open_disagreements(differences(course(number))) for number in (*FIRST, *range(LIVES)))


NEEDED_A_REPAIR = (437, 483, 673)


def test_without_a_mistake_the_same_lives_agree() -> None:
    assert [
        found for number in (*range(30), *NEEDED_A_REPAIR) if (found := open_disagreements(differences(course(number))))
    ] == []
