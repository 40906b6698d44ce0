"""The simulated lives find each mistake of tests/oracle/mutations.py within 1,000 lives."""

from __future__ import annotations

import pytest

from tests.kits.lifekit import differences, numbered_course, open_disagreements
from tests.oracle.mutations import MUTATIONS, Mutation

LIVES = 1000
FIRST = (108, 233)
"""The lives that find the two rarest mistakes are tried first: about two seconds less than in the order of numbers."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_mistake_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    assert any(open_disagreements(differences(numbered_course(number))) for number in (*FIRST, *range(LIVES)))


NEEDED_A_REPAIR = (437, 483, 673, 5289, 6270, 24717)


def test_without_a_mistake_the_same_lives_agree() -> None:
    numbers = (*range(30), *NEEDED_A_REPAIR)
    assert [found for number in numbers if (found := open_disagreements(differences(numbered_course(number))))] == []
