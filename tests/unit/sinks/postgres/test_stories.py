"""Why a customer has access or not, and what an event did not do: sentences from stored rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops.commands.amounts import amount_text
from sinks.postgres.lists.stories import Level, access_chain, not_done, upcoming

NOW = datetime(2026, 11, 9, 12, tzinfo=UTC)
SUBSCRIPTION: dict[str, Any] = {
    "subscription_id": "sub_1",
    "status": "active",
    "plan": "pro",
    "price_id": "price_pro",
    "status_version": "0:1:2:evt_life",
    "ended_at": None,
    "payment_failed_at": None,
    "canceled_at": None,
    "cancellation_reason": None,
    "cancel_at": None,
    "cancel_at_period_end": False,
    "pause_collection": None,
    "resumes_at": None,
    "current_period_end": NOW,
}
PAYMENT: dict[str, Any] = {
    "payment_id": "pay_1",
    "invoice_id": "in_1",
    "status": "failed",
    "amount": 2900,
    "currency": "eur",
    "failure_reason": "insufficient_funds",
    "attempt_count": 2,
    "failure_version": "0:1:2:evt_failed",
    "dunning_steps": {"payment-reminder": "2026-11-06T09:00:00+00:00", "payment-failed": "2026-11-03T09:00:00+00:00"},
    "lost_at": None,
}
LETTER = {"event_id": "evt_paid", "type": "invoice.paid", "status": "open", "error_class": "Bug", "message": "boom"}


def customer(**parts: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "organization": {"has_access": True, "plan": "pro", "access_reason": "active"},
        "subscriptions": [SUBSCRIPTION],
        "payments": [],
        "emails": [],
        "events": [],
        "dead_letters": [],
    }
    return empty | parts


def texts(found: dict[str, Any]) -> list[str]:
    return [fact.text for fact in access_chain(found, amount_text)]


def test_a_customer_with_access_has_a_short_chain() -> None:
    assert texts(customer()) == [
        "has access by plan pro: active",
        "sub_1 is active",
        "nothing of this customer is waiting or dead",
    ]


def test_the_chain_leads_from_the_verdict_to_the_dead_event_that_may_restore_access() -> None:
    unpaid = SUBSCRIPTION | {"status": "unpaid", "payment_failed_at": NOW - timedelta(days=6)}
    found = customer(
        organization={"has_access": False, "plan": "free", "access_reason": "unpaid"},
        subscriptions=[unpaid],
        payments=[PAYMENT],
        emails=[{"template": "payment-reminder", "email_key": "reminder:in_1", "status": "withheld"}],
        dead_letters=[LETTER, LETTER | {"event_id": "evt_closed", "status": "resolved"}],
    )
    assert texts(found) == [
        "has no access: unpaid",
        "sub_1 is unpaid since 2026-11-03",
        "in_1 over 29.00 EUR failed 2 times (insufficient_funds)",
        "payment-failed on 2026-11-03",
        "payment-reminder on 2026-11-06, mail withheld",
        "evt_paid (invoice.paid) is dead: Bug: boom; it may restore access",
    ]
    facts = access_chain(found, amount_text)
    assert [(fact.level, fact.event_id) for fact in facts if fact.event_id] == [
        (Level.BAD, "evt_life"),
        (Level.BAD, "evt_failed"),
        (Level.BAD, "evt_paid"),
    ]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"organization": None, "subscriptions": []}, "no organization is stored: no event has made one"),
        ({"subscriptions": []}, "no subscription is stored"),
        ({"subscriptions": [SUBSCRIPTION | {"plan": None}]}, "its price price_pro is in no plan of the config"),
        ({"subscriptions": [SUBSCRIPTION | {"cancel_at_period_end": True}]}, "sub_1 ends on 2026-11-09"),
        ({"subscriptions": [SUBSCRIPTION | {"cancel_at": NOW + timedelta(days=3)}]}, "sub_1 ends on 2026-11-12"),
        ({"subscriptions": [SUBSCRIPTION | {"pause_collection": "void"}]}, "the collection of sub_1 is paused"),
        (
            {
                "subscriptions": [
                    SUBSCRIPTION | {"status": "canceled", "ended_at": NOW, "cancellation_reason": "payment_failed"}
                ]
            },
            "sub_1 is canceled since 2026-11-09 (payment failed)",
        ),
        (
            {"subscriptions": [SUBSCRIPTION | {"pause_collection": "void", "resumes_at": NOW}]},
            "the collection of sub_1 is paused until 2026-11-09",
        ),
        ({"payments": [PAYMENT | {"lost_at": NOW}]}, "given up on 2026-11-09"),
        (
            {"events": [{"event_id": "evt_w", "type": "invoice.paid", "outcome": "waiting", "reason": "no sub_9"}]},
            "evt_w (invoice.paid) waits: no sub_9",
        ),
    ],
)
def test_each_missing_link_is_named(parts: dict[str, Any], says: str) -> None:
    assert says in texts(customer(**parts))


def event(outcome: str = "applied", type_: str = "invoice.paid", **more: Any) -> dict[str, Any]:
    row = {"type": type_, "outcome": outcome, "reason": "because", "created": NOW}
    return {"event": row, "emails": []} | more


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (event("ignored"), ["nothing was changed: no rule handles invoice.paid"]),
        (event("stale"), ["older than what is stored: because"]),
        (event("waiting"), ["it is not applied yet: because"]),
        (event("dead"), ["it is not applied: because"]),
        ({"event": None, "emails": []}, ["it has no verdict yet"]),
        (event(), []),
        (
            event(emails=[{"template": "win-back", "status": "withheld", "last_error": "unsubscribed"}]),
            ["mail win-back was not sent: unsubscribed"],
        ),
        (
            event(type_="timer.dunning", about={"id": "in_1", "paid_at": NOW - timedelta(hours=2)}),
            ["no mail was queued: in_1 was paid 2 h before the timer fired"],
        ),
        (
            event(type_="timer.trial", about={"id": "sub_1", "ended_at": NOW - timedelta(days=5)}),
            ["no mail was queued: sub_1 had ended 5 days before the timer fired"],
        ),
        (
            event(type_="timer.trial", about={"id": "sub_1", "ended_at": NOW + timedelta(days=5)}),
            ["no mail was queued: when the timer fired, there was nothing left to say"],
        ),
    ],
)
def test_what_did_not_happen_has_a_reason(found: dict[str, Any], says: list[str]) -> None:
    assert not_done(found) == says


def test_upcoming_timers_are_those_ahead() -> None:
    timers = [
        {"status": status, "due_at": NOW + timedelta(days=days)}
        for status, days in (("pending", 3), ("pending", 1), ("pending", -1), ("done", 2))
    ]
    assert [timer["due_at"] - NOW for timer in upcoming({"timers": timers}, NOW)] == [
        timedelta(days=1),
        timedelta(days=3),
    ]
