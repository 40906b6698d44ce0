"""Random lives of the simulated Stripe: in any order, with repeats and losses, the tables equal its objects (D2, D7).

BILLING_LIVES sets how many lives are tried (300 by default, 10,000 in `make soak`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.stripe.simulator.books import AccountSettings
from local.stripe.simulator.lives import STEPS, WEIGHTS, LifeStep
from tests.kits.lifekit import Course, differences, open_disagreements

SLOW = (HealthCheck.too_slow,)
"""Says how busy the machine is, nothing of the rules."""
LIVES = int(os.environ.get("BILLING_LIVES", "300"))
IS_RANDOM = "BILLING_LIVES" in os.environ
"""Without it the lives are the same in each run, so that a change is what makes the test fail."""


NAMES = [name for name in STEPS for _ in range(WEIGHTS.get(name, 1))]


@st.composite
def courses(draw: Callable[[st.SearchStrategy[Any]], Any], deliveries: tuple[str, ...]) -> Course:
    begin = st.sampled_from(["subscribe", "subscribe_by_hand", "buy"])
    first, rest = draw(st.tuples(begin, st.lists(st.sampled_from(NAMES), min_size=2, max_size=14)))
    choices = draw(st.lists(st.integers(0, 2**16), min_size=len(rest) + 1, max_size=len(rest) + 1))
    return Course(
        tuple(LifeStep(name, choice) for name, choice in zip([first, *rest], choices, strict=True)),
        AccountSettings(
            after_retries=draw(st.sampled_from(["cancel", "unpaid", "past_due"])),
            unpaid_invoice=draw(st.sampled_from(["open", "uncollectible"])),
        ),
        shape=draw(st.sampled_from(["new", "old", "mixed"])),
        delivery=draw(st.sampled_from(deliveries)),
        order=draw(st.integers(0, 2**16)),
        account=draw(st.sampled_from(["", "", "acct_1"])),
    )


@pytest.mark.parametrize("delivery", ["ordered", "shuffled", "lost"])
def test_the_tables_equal_stripes_objects(delivery: str) -> None:
    @settings(max_examples=LIVES // 3, deadline=None, derandomize=not IS_RANDOM, suppress_health_check=SLOW)
    @given(courses((delivery,)))
    def lives(course: Course) -> None:
        assert open_disagreements(differences(course)) == []

    lives()
