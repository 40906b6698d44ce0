"""A timer as an event, and the guarantees for its rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from schemas.effects import CancelTimers, Effect, FinishTimer, StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.ordering import ordering_key
from schemas.settings import Config
from schemas.state import Timer
from schemas.statuses import TimerStatus
from schemas.timer import TimerDue, timer_event
from streams.apply import apply
from streams.decode import decode
from streams.rules.registry import Rule, Stream
from streams.rules.timers import is_due, refer

DUE = datetime(2026, 3, 1, 12, 30, 15, 654321, UTC)
TIMER = Timer(
    timer_key="trial-reminder:sub_1",
    account="",
    customer_id="cus_1",
    kind="trial-reminder",
    subject="sub_1",
    due_at=DUE,
    status=TimerStatus.FIRED,
    livemode=True,
    data={"days": 7},
    event_id="evt_1",
)
START = StartTimer(
    key=TIMER.timer_key, account="", customer_id="cus_1", kind=TIMER.kind, subject=TIMER.subject, due_at=DUE
)
CANCEL = CancelTimers(account="", customer_id="cus_1", kinds=(TIMER.kind,))
LATER = DUE + timedelta(days=1)

stream = Stream("test")


@stream.on("timer.trial-reminder", model=TimerDue, refer=refer)
def on_trial_reminder(event: Event[TimerDue], known: Known) -> list[Effect]:
    return [FinishTimer(event.object.timer_key)] if is_due(event, known) else []


def _decoded(timer: Timer) -> Event[TimerDue]:
    decoded = decode(orjson.dumps(timer_event(timer)), stream.rules)
    assert decoded.event is not None
    return decoded.event


def _after(timer: Timer | None, *effects: Effect) -> Timer | None:
    known = Known(Config(), [timer] if timer else [])
    apply(effects, _decoded(TIMER), known)
    return known.timer(TIMER.timer_key)


@pytest.mark.parametrize("account", ["", "acct_1"])
@pytest.mark.parametrize("customer", ["cus_1", "cus_" + "x" * 300, "ü\x01"])
def test_a_timer_has_its_customers_ordering_key(account: str, customer: str) -> None:
    """The key is that of Stripe's events about the customer, in the own or in a connected account."""
    theirs: dict[str, Any] = {"object": "event", "data": {"object": {"object": "invoice", "customer": customer}}}
    if account:
        theirs["account"] = account
    timer = replace(TIMER, account=account, customer_id=customer)

    assert ordering_key(timer_event(timer)) == ordering_key(theirs)


def test_a_timer_without_a_customer_has_its_own_key() -> None:
    assert ordering_key(timer_event(replace(TIMER, customer_id=""))) == TIMER.timer_key


def test_it_decodes_as_any_event_does() -> None:
    event = _decoded(replace(TIMER, account="acct_1"))

    assert (event.type, event.account, event.customer_id, event.livemode) == (
        "timer.trial-reminder", "acct_1", "cus_1", True,
    )  # fmt: skip
    assert event.at == event.object.due_at == DUE.replace(microsecond=0)
    assert (event.object.timer_key, event.object.subject, event.object.data) == (TIMER.timer_key, "sub_1", {"days": 7})
    rule: Rule = stream.rules[event.type]
    assert rule.refer(event).timers == {TIMER.timer_key}
    assert rule.refer(event).customers == {("acct_1", "cus_1")}


def test_its_id_is_derived_from_key_and_due_time() -> None:
    """If the timer is appended twice, it is one event. With a new due time it is a new event."""
    ids = [
        timer_event(timer)["id"]
        for timer in (
            TIMER,
            replace(TIMER, status=TimerStatus.PENDING, data={}, livemode=False),
            replace(TIMER, due_at=LATER),
            replace(TIMER, timer_key="trial-reminder:sub_2"),
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(id_.startswith("tmr_") for id_ in ids)


@pytest.mark.parametrize(
    ("present", "is_so"),
    [
        (TIMER, True),
        (replace(TIMER, status=TimerStatus.PENDING), True),  # appended, but not marked `fired` yet
        (replace(TIMER, status=TimerStatus.DONE), False),
        (replace(TIMER, status=TimerStatus.CANCELLED), False),
        (replace(TIMER, status=TimerStatus.PENDING, due_at=LATER), False),
        (replace(TIMER, status=TimerStatus.PENDING, due_at=DUE - timedelta(days=1)), True),
        (None, False),
    ],
)
def test_is_due_checks_the_stored_timer(present: Timer | None, is_so: bool) -> None:
    assert is_due(_decoded(TIMER), Known(Config(), [present] if present else [])) is is_so


@pytest.mark.parametrize("status", [TimerStatus.PENDING, TimerStatus.FIRED])
def test_an_open_timer_can_be_finished_cancelled_and_moved(status: TimerStatus) -> None:
    timer = replace(TIMER, status=status)

    finished, cancelled = _after(timer, FinishTimer(timer.timer_key)), _after(timer, CANCEL)
    moved = _after(timer, replace(START, due_at=LATER))

    assert finished == replace(timer, status=TimerStatus.DONE)
    assert cancelled == replace(timer, status=TimerStatus.CANCELLED)
    assert moved is not None
    assert (moved.status, moved.due_at) == (TimerStatus.PENDING, LATER)


@pytest.mark.parametrize("status", [TimerStatus.DONE, TimerStatus.CANCELLED])
@pytest.mark.parametrize("effect", [FinishTimer(TIMER.timer_key), CANCEL, START, replace(START, due_at=LATER)])
def test_a_finished_timer_does_not_change(status: TimerStatus, effect: Effect) -> None:
    timer = replace(TIMER, status=status)
    assert _after(timer, effect) == timer


def test_a_fired_timer_is_not_started_again_for_the_same_time() -> None:
    assert _after(TIMER, START) == TIMER


def test_finishing_an_unknown_timer_changes_nothing() -> None:
    assert _after(None, FinishTimer(TIMER.timer_key)) is None
