"""Each kind of timer either may be fired by an operator, or says why not."""

from __future__ import annotations

from schemas.timer import MAILING_TIMERS, RETRY, timer_event_type
from sinks.postgres.timer_changes import FIRED_EARLY, NOT_FIRED_EARLY, why_not
from streams.rules.catalog import RULES


def test_each_kind_is_decided_once() -> None:
    kinds = {type_.removeprefix(timer_event_type("")) for type_ in RULES if type_.startswith(timer_event_type(""))}
    assert kinds | {RETRY} == FIRED_EARLY | NOT_FIRED_EARLY.keys()
    assert not FIRED_EARLY & NOT_FIRED_EARLY.keys()


def test_a_kind_that_mails_is_a_kind() -> None:
    assert MAILING_TIMERS <= FIRED_EARLY
    assert {RETRY, "dispute-due", "dispute-link"} == FIRED_EARLY - MAILING_TIMERS, "these mail no customer"


def test_a_kind_that_is_not_listed_is_not_fired() -> None:
    assert why_not("win-back") is None
    assert "billing erase" in (why_not("erase") or "")
    assert "of-a-plugin" in (why_not("of-a-plugin") or "")
