"""The brake: when it trips, what it lets through, and what it does not count."""

from __future__ import annotations

import pytest

from schemas.verdict import Applied, Dead, Duplicate, Ignored, Verdict
from streams.brake import Brake, BrakeTripped, Limits

LIMITS = Limits(window=10, least=4, ratio=0.5, run=6)
DEAD = Dead("RuleViolated", "no", "decide")
GOOD = Applied()
PAIR: list[Verdict] = [DEAD, GOOD]
SILENT: list[Verdict] = [Ignored(), Duplicate()]


def commit(brake: Brake, *verdicts: Verdict) -> None:
    brake.check(verdicts)
    brake.passed(verdicts)


def test_it_trips_at_the_ratio_over_its_window() -> None:
    brake = Brake(LIMITS)
    commit(brake, *[GOOD] * 10, *PAIR * 4)
    with pytest.raises(BrakeTripped, match="5 of the last 10 events died"):
        brake.check([DEAD])


def test_a_few_dead_events_are_no_broken_deploy() -> None:
    brake = Brake(LIMITS)
    for _ in range(50):
        commit(brake, DEAD, GOOD, GOOD)


def test_it_trips_at_a_run_however_good_the_past_was() -> None:
    brake = Brake(Limits(window=1000, least=900, ratio=0.9, run=6))
    commit(brake, *[GOOD] * 500, *[DEAD] * 5)
    with pytest.raises(BrakeTripped, match="6 events in a row died"):
        brake.check([DEAD])
    commit(brake, GOOD, DEAD)


def test_what_comes_before_it_trips_may_be_committed_up_to_the_last_good_event() -> None:
    with pytest.raises(BrakeTripped) as tripped:
        Brake(LIMITS).check([GOOD, DEAD, GOOD, DEAD, DEAD, DEAD, DEAD])
    assert tripped.value.safe == 3


def test_to_check_changes_nothing() -> None:
    brake = Brake(LIMITS)
    for _ in range(5):
        brake.check([DEAD, DEAD, DEAD])


def test_what_says_nothing_of_the_rules_is_not_counted() -> None:
    brake = Brake(LIMITS)
    never_known = Dead("NeverKnown", "waited 72 h", "decide")
    commit(brake, *[never_known] * 50)
    commit(brake, *[DEAD] * 3, *SILENT * 50)
    with pytest.raises(BrakeTripped, match="4 of the last 4"):
        brake.check([DEAD])


def test_an_operator_may_allow_some_to_die() -> None:
    brake = Brake(LIMITS, let_die=10)
    commit(brake, *[DEAD] * 8)
    with pytest.raises(BrakeTripped) as tripped:
        brake.check([DEAD] * 20)
    assert tripped.value.safe == 2, "the two that are left of the allowance, so that each release gets on"


def test_the_reasons_are_a_sample_the_most_frequent_first() -> None:
    with pytest.raises(BrakeTripped) as tripped:
        Brake(LIMITS).check([Dead("A", "x", "decode"), DEAD, DEAD, DEAD])
    assert tripped.value.reasons == ("3 times RuleViolated: no", "1 times A: x")
