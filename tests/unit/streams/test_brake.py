"""The brake: when it trips, what it lets through, and what it does not count."""

from __future__ import annotations

import pytest

from schemas.verdict import Applied, Dead, Duplicate, Ignored, Verdict
from streams.brake import Brake, BrakeTripped, Judged, Limits

LIMITS = Limits(window=10, least=4, ratio=0.5, run=6)
DEAD = Dead("RuleViolated", "no", "decide")
BUG = Dead("Unforeseen", "KeyError: plan", "decide")
MALFORMED = Dead("MalformedEvent", "no", "decode")
GOOD = Applied()
PAIR: list[Verdict] = [DEAD, GOOD]
SILENT: list[Verdict] = [Ignored(), Duplicate()]


def commit(brake: Brake, *verdicts: Verdict) -> None:
    pass_all(brake, judged(*verdicts))


def pass_all(brake: Brake, verdicts: list[Judged]) -> None:
    brake.check(verdicts)
    brake.passed(verdicts)


def judged(*verdicts: Verdict, account: str = "") -> list[Judged]:
    return [Judged(verdict, account) for verdict in verdicts]


def test_it_trips_at_the_ratio_over_its_window() -> None:
    brake = Brake(LIMITS)
    commit(brake, *[GOOD] * 10, *PAIR * 4)
    with pytest.raises(BrakeTripped, match="5 of the last 10 events died"):
        brake.check(judged(DEAD))


def test_a_few_dead_events_do_not_trip_it() -> None:
    brake = Brake(LIMITS)
    for _ in range(50):
        commit(brake, DEAD, GOOD, GOOD)


def test_it_trips_at_a_run_of_dead_events_whatever_came_before() -> None:
    brake = Brake(Limits(window=1000, least=900, ratio=0.9, run=6))
    commit(brake, *[GOOD] * 500, *[DEAD] * 5)
    with pytest.raises(BrakeTripped, match="6 events in a row died"):
        brake.check(judged(DEAD))
    commit(brake, GOOD, DEAD)


def test_before_it_trips_commits_reach_the_last_good_event() -> None:
    with pytest.raises(BrakeTripped) as tripped:
        Brake(LIMITS).check(judged(GOOD, DEAD, GOOD, DEAD, DEAD, DEAD, DEAD))
    assert tripped.value.safe == 3


def test_a_check_changes_nothing() -> None:
    brake = Brake(LIMITS)
    for _ in range(5):
        brake.check(judged(DEAD, DEAD, DEAD))


def test_verdicts_not_caused_by_rules_do_not_count() -> None:
    brake = Brake(LIMITS)
    never_known = Dead("NeverKnown", "waited 72 h", "decide")
    commit(brake, *[never_known] * 50)
    commit(brake, *[DEAD] * 3, *SILENT * 50)
    with pytest.raises(BrakeTripped, match="4 of the last 4"):
        brake.check(judged(DEAD))


def test_an_operator_can_allow_some_dead_events() -> None:
    brake = Brake(LIMITS, let_die=10)
    commit(brake, *[DEAD] * 8)
    with pytest.raises(BrakeTripped) as tripped:
        brake.check(judged(*[DEAD] * 20))
    assert tripped.value.safe == 2, "two events of the allowance are left, so each release makes progress"


def test_the_reasons_are_a_sample_the_most_frequent_first() -> None:
    with pytest.raises(BrakeTripped) as tripped:
        Brake(LIMITS).check(judged(Dead("A", "x", "decode"), DEAD, DEAD, DEAD))
    assert tripped.value.reasons == ("3 times RuleViolated: no", "1 times A: x")


def test_T9_a_run_of_malformed_events_of_one_account_sets_it_aside_and_no_other_account_stops() -> None:
    brake = Brake(LIMITS)
    pass_all(brake, judged(*[MALFORMED] * 60, account="acct_1"))
    assert brake.aside == {"acct_1"}
    commit(brake, *[GOOD] * 20)
    pass_all(brake, judged(*[DEAD] * 60, account="acct_1") + judged(*PAIR * 2))
    with pytest.raises(BrakeTripped, match="4 of the last 8 events died"):
        pass_all(Brake(LIMITS), judged(*[GOOD] * 4, *[DEAD] * 4))


@pytest.mark.parametrize("dead", [DEAD, BUG, Dead("MalformedEvent", "no", "decide")])
def test_T9_one_large_account_does_not_hide_a_broken_deploy(dead: Dead) -> None:
    """Without good events of others there is no proof that the account is to blame."""
    with pytest.raises(BrakeTripped, match="4 of the last 4 events died"):
        Brake(LIMITS).check(judged(*[dead] * 60, account="acct_1"))
    few = judged(*[GOOD] * 3) + judged(*[dead] * 6, account="acct_1")
    with pytest.raises(BrakeTripped):
        Brake(LIMITS).check(few)
    own = judged(*[GOOD] * 6, *[dead] * 6, account="acct_1")
    with pytest.raises(BrakeTripped):
        Brake(LIMITS).check(own)
    mixed = judged(*[MALFORMED] * 3, dead, account="acct_1")
    with pytest.raises(BrakeTripped):
        Brake(LIMITS).check(mixed)


@pytest.mark.parametrize("dead", [DEAD, BUG, MALFORMED])
@pytest.mark.parametrize("other", ["", "acct_2"])
def test_T9_an_account_that_dies_among_good_events_of_others_is_set_aside(dead: Dead, other: str) -> None:
    brake = Brake(LIMITS)
    for one in [*judged(*[GOOD] * 4, account=other), *judged(*[dead] * 60, account="acct_1")]:
        pass_all(brake, [one])
    assert brake.aside == {"acct_1"}
    with pytest.raises(BrakeTripped):
        brake.check(judged(*[dead] * 6))


def test_T9_a_run_across_accounts_or_of_the_platform_trips_it() -> None:
    for dead in (DEAD, MALFORMED):
        across = [Judged(dead, f"acct_{number % 3}") for number in range(60)]
        with pytest.raises(BrakeTripped):
            Brake(LIMITS).check(across)
        mixed = judged(*[dead] * 5, account="acct_1") + judged(*[dead] * 5)
        with pytest.raises(BrakeTripped):
            Brake(LIMITS).check(mixed)
        with pytest.raises(BrakeTripped):
            Brake(LIMITS).check(judged(*[GOOD] * 4) + mixed[4:6] + mixed[1:4])


def test_T9_a_platform_that_dies_is_not_excused_by_an_account_that_is_set_aside() -> None:
    brake = Brake(LIMITS)
    pass_all(brake, judged(*[MALFORMED] * 10, account="acct_1"))
    with pytest.raises(BrakeTripped) as tripped:
        brake.check(judged(DEAD, account="acct_1") + judged(*[DEAD] * 4))
    assert tripped.value.safe == 1


def test_T9_an_account_that_is_set_aside_counts_again_after_a_run_of_good_events() -> None:
    brake = Brake(LIMITS)
    pass_all(brake, judged(*[MALFORMED] * 6, *[GOOD] * 5, DEAD, *[GOOD] * 5, account="acct_1"))
    assert brake.aside == {"acct_1"}
    pass_all(brake, judged(GOOD, account="acct_1"))
    assert brake.aside == frozenset()


def test_T9_when_many_accounts_fail_one_after_the_other_the_code_is_to_blame() -> None:
    brake = Brake(LIMITS)
    for number in range(5):
        pass_all(brake, judged(*[GOOD] * 4) + judged(*[DEAD] * 6, account=f"acct_{number}"))
    assert len(brake.aside) == 5
    with pytest.raises(BrakeTripped):
        brake.check(judged(*[GOOD] * 4) + judged(*[DEAD] * 6, account="acct_5"))


def test_T9_without_good_events_malformed_ones_set_one_account_aside_and_no_second_one() -> None:
    """A deploy that cannot read a type any more meets one account after the other."""
    brake = Brake(LIMITS)
    pass_all(brake, judged(*[MALFORMED] * 6, account="acct_1"))
    with pytest.raises(BrakeTripped):
        brake.check(judged(*[MALFORMED] * 6, account="acct_2"))


def test_T9_dead_events_of_an_account_that_is_set_aside_do_not_use_up_what_an_operator_allowed() -> None:
    brake = Brake(LIMITS)
    pass_all(brake, judged(*[MALFORMED] * 10, account="acct_1"))
    brake.allow_more(3)
    pass_all(brake, judged(*[MALFORMED] * 50, account="acct_1"))
    pass_all(brake, judged(*[DEAD] * 6))
    with pytest.raises(BrakeTripped):
        brake.check(judged(DEAD))
