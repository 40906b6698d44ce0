"""What a receiver's answer means, how long tries last, and which receivers pause (behaviours.md F3)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sinks.feed.answers import GIVE_UP_AFTER, Answer, pause_after, verdict_of
from sinks.feed.pauses import Pauses
from sinks.outbox.verdicts import Done, Failed, RetryAt

AWAY, REFUSED, ACCEPTED = Answer(0, "cannot connect"), Answer(500), Answer(204)


def test_F3_tries_last_three_days() -> None:
    age, tries = timedelta(0), 1
    while isinstance(verdict := verdict_of(REFUSED, tries=tries, age=age, chance=0.5), RetryAt):
        age, tries = age + verdict.after, tries + 1
    assert isinstance(verdict, Failed)
    assert GIVE_UP_AFTER - timedelta(hours=9) < age <= GIVE_UP_AFTER
    assert 12 <= tries <= 20
    assert pause_after(10_000, 0.99) < timedelta(hours=9)


@pytest.mark.parametrize("status", [0, 100, 199, 301, 302, 400, 401, 404, 429, 500, 503])
def test_F3_every_other_answer_is_tried_again(status: int) -> None:
    assert isinstance(verdict_of(Answer(status), tries=1, age=timedelta(0), chance=0.5), RetryAt)


def test_F3_gone_is_final_and_success_ends_it() -> None:
    assert isinstance(verdict_of(Answer(410), tries=1, age=timedelta(0), chance=0.5), Failed)
    assert isinstance(verdict_of(ACCEPTED, tries=1, age=timedelta(days=9), chance=0.5), Done)


def test_F3_the_topic_is_tried_without_end() -> None:
    assert isinstance(verdict_of(AWAY, tries=99, age=timedelta(days=30), chance=0.5, gives_up=False), RetryAt)


def test_F3_a_receiver_that_is_away_pauses_alone_and_one_notification_checks_it() -> None:
    now = 0.0
    pauses = Pauses(lambda: 0.5, lambda: now)
    pauses.begin("app")
    pauses.end("app", AWAY)
    assert pauses.paused() == ["app"]
    now = 2.0
    assert pauses.paused() == []
    pauses.begin("app")
    assert pauses.paused() == ["app"]  # one is enough to find out
    pauses.end("app", ACCEPTED)
    assert pauses.paused() == []


def test_F3_one_refused_notification_does_not_pause_its_receiver() -> None:
    pauses = Pauses(lambda: 0.5, lambda: 0.0)
    for _ in range(2):
        pauses.end("app", REFUSED)
    assert pauses.paused() == []
    pauses.end("app", REFUSED)
    assert pauses.paused() == ["app"]
