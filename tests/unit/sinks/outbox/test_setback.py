"""A dispatcher whose database was restored waits until a worker knows it (trust T11)."""

from __future__ import annotations

from typing import Any

import pytest

from sinks.outbox.setback import Setback


def row(next_offset: int, reread_until: int | None = None, topic_id: str | None = "t", partition: int = 0) -> Any:
    return {
        "consumer_group": "billing.worker",
        "topic": "billing.events",
        "partition": partition,
        "next_offset": next_offset,
        "reread_until": reread_until,
        "topic_id": topic_id,
    }


def test_positions_that_grow_are_no_setback() -> None:
    setback = Setback()
    assert not setback.is_in([])
    assert not setback.is_in([row(5)])
    assert not setback.is_in([row(5), row(1, partition=1)])
    assert not setback.is_in([row(9), row(1, partition=1)])


@pytest.mark.parametrize("restored", [[row(4), row(7, partition=1)], [row(7, partition=1)], []])
def test_it_waits_until_a_worker_has_noticed_or_caught_up(restored: list[Any]) -> None:
    setback = Setback()
    assert not setback.is_in([row(5), row(7, partition=1)])
    assert setback.is_in(restored)
    assert setback.is_in(restored)
    assert not setback.is_in([row(5), row(7, partition=1)])
    assert setback.is_in(restored)
    assert not setback.is_in([row(2, reread_until=5), row(7, partition=1)])
    assert not setback.is_in([row(3, reread_until=5), row(7, partition=1)])


def test_a_second_restore_after_the_first_is_noticed_too() -> None:
    setback = Setback()
    assert not setback.is_in([row(50, reread_until=40)])
    assert setback.is_in([row(30, reread_until=40)])
    assert not setback.is_in([row(30, reread_until=50)])


@pytest.mark.parametrize("restored_to", [10, 20, 30])
def test_it_waits_after_a_second_restore_too(restored_to: int) -> None:
    """The backup is from before the first one was read again, so it says nothing of what the first copy had applied."""
    setback = Setback()
    assert not setback.is_in([row(20, reread_until=40)])
    assert setback.is_in([row(restored_to)])
    assert setback.is_in([row(restored_to + 1)])
    assert not setback.is_in([row(max(restored_to, 20), reread_until=40)])
    assert not setback.is_in([row(41, reread_until=40)])


def test_a_topic_that_was_created_again_begins_again() -> None:
    setback = Setback()
    assert not setback.is_in([row(50, topic_id=None)])
    assert not setback.is_in([row(3, topic_id="new")])
    assert setback.is_in([row(2, topic_id="new")])
