"""Shared code of the timer rules. A rule for `timer.<kind>` reads a `TimerDue` and acts only if `is_due`.

@stream.on(timer_event_type("trial-reminder"), model=TimerDue, refer=refer)
def on_trial_reminder(event: Event[TimerDue], known: Known) -> list[Effect]:
    if not is_due(event, known):
        return []
    return [FinishTimer(event.object.timer_key), *(…effects that depend on the present state)]
"""

from __future__ import annotations

from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.timer import TimerDue


def refer(event: Event[TimerDue]) -> References:
    """Names the timer and its customer."""
    customer = event.object.customer
    return References(
        timers={event.object.timer_key}, customers={(event.account, customer)} if customer is not None else set()
    )


def is_due(event: Event[TimerDue], known: Known) -> bool:
    """Whether the timer is still due: not cancelled, done, or moved to a later time since it fired."""
    timer = known.timer(event.object.timer_key)
    if timer is None or not timer.is_open:
        return False
    # The event has whole seconds. A timer that is pending and due has fired, but the scheduler has not stored that yet.
    return timer.due_at.replace(microsecond=0) <= event.object.due_at
