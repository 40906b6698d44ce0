"""What needs attention: one seeded state per fact, and the worst comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.postgres.lists.attention import Unknown, concerns

NOW = datetime(2026, 11, 9, 12, tzinfo=UTC)
BRAKE = {"holds": True, "consumer_group": "billing.worker", "tripped_at": NOW, "message": "50 of 50 events died"}
STATES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"lag": Unknown("no broker")}, "lag: not known: no broker"),
    "brake": (
        {"brakes": [BRAKE, BRAKE | {"holds": False}]},
        "the brake holds billing.worker since 2026-11-09 12:00 UTC: 50 of 50 events died",
    ),
    "letters": (
        {"letters": {"open": 12, "more": False, "groups": 1, "since": NOW}},
        "12 dead letters in 1 group, the first since 2026-11-09 12:00 UTC",
    ),
    "lag": ({"lag": {0: 3, 4: 20_000, 5: 11_000}}, "the worker is 20000 records behind on p4"),
    "books": (
        {"runs": {"reconciliation": None, "audit": {"last_error": None, "ended_at": NOW, "differences": 1}}},
        "the books differ from Stripe in 1 place",
    ),
    "outage": (
        {"outages": [{"address": "smtp:25", "since": NOW, "reason": "timeout"}]},
        "smtp:25 does not answer since 2026-11-09 12:00 UTC: timeout",
    ),
    "failed": (
        {"outboxes": [{"outbox": "stripe_calls", "command": "calls", "failed": 2, "open": 0, "late_s": None}]},
        "2 stripe calls failed",
    ),
    "late": (
        {"outboxes": [{"outbox": "emails", "command": "mail", "failed": 0, "open": 7, "late_s": 900.0}]},
        "emails: the oldest of 7 is 15 min late",
    ),
    "stopped": (
        {"runs": {"reconciliation": {"last_error": "401", "ended_at": None}, "audit": None}},
        "the last reconciliation stopped: 401",
    ),
    "timers": (
        {"late_timers": {"timers": 1, "since": NOW}},
        "1 timer due since 2026-11-09 12:00 UTC and not fired: is the scheduler running?",
    ),
    "prices": ({"unknown_prices": [{"price_id": "price_x"}]}, "1 price in no plan: price_x"),
    "waiting": (
        {"waiting": {"events": 2, "since": NOW - timedelta(hours=2)}},
        "2 events waiting, the oldest since 2026-11-09 10:00 UTC",
    ),
}
"""From the worst to the least."""


@pytest.mark.parametrize("name", STATES)
def test_each_state_is_named(name: str) -> None:
    panels, says = STATES[name]
    (found,) = concerns(panels, NOW)
    assert found.text == says
    assert found.command.startswith("billing ")


def test_the_worst_comes_first() -> None:
    order = ["unknown", "brake", "letters", "outage", "late", "timers", "waiting"]
    panels: dict[str, Any] = {}
    for name in reversed(order):
        panels |= STATES[name][0]
    assert [one.text for one in concerns(panels, NOW)] == [STATES[name][1] for name in order]


def test_all_is_well() -> None:
    quiet = {
        "brakes": [],
        "letters": {"open": 0, "more": False, "groups": 0, "since": None},
        "waiting": {"events": 1, "since": NOW},
        "outboxes": [{"outbox": "emails", "command": "mail", "failed": 0, "open": 3, "late_s": None}],
        "outages": [],
        "late_timers": {"timers": 0, "since": None},
        "unknown_prices": [],
        "runs": {"reconciliation": None, "audit": {"last_error": None, "ended_at": NOW, "differences": 0}},
        "lag": {0: 0},
    }
    assert concerns(quiet, NOW) == []
