"""One receiver's trouble is that receiver's: it neither takes all lanes nor pauses others."""

from __future__ import annotations

from sinks.feed.answers import Answer
from sinks.feed.pauses import Pauses

SLOW, AWAY, FINE = "slow", "away", "fine"


def test_F3_a_slow_receiver_leaves_lanes_to_the_others() -> None:
    """It answers each time, so it never pauses. But it gets no more than its part of the requests at once."""
    pauses = Pauses(lambda: 0.5, at_once=2)
    for _ in range(2):
        assert pauses.paused() == []
        pauses.begin(SLOW)
    pauses.begin(FINE)
    assert pauses.paused() == [SLOW]
    pauses.end(SLOW, Answer(200))
    assert pauses.paused() == []


def test_F3_a_receiver_that_is_away_is_checked_by_one_request() -> None:
    now = 0.0
    pauses = Pauses(lambda: 0.5, lambda: now, at_once=2)
    pauses.begin(AWAY)
    pauses.end(AWAY, Answer(0, "cannot connect"))
    assert pauses.paused() == [AWAY]
    now = 60.0
    assert pauses.paused() == []
    pauses.begin(AWAY)
    assert pauses.paused() == [AWAY]
    pauses.end(AWAY, Answer(200))
    assert pauses.paused() == []


def test_F3_the_only_receiver_has_all_lanes() -> None:
    pauses = Pauses(lambda: 0.5)
    for _ in range(8):
        pauses.begin(SLOW)
    assert pauses.paused() == []
