"""The event of a due timer: the scheduler appends it to the log, and the rule of `timer.<kind>` reads it.

It has the format of a Stripe event, so decoding, ordering and the ledger need no special case:

    {"object": "event", "id": "tmr_…", "type": "timer.<kind>", "created": due_at, "livemode": …, "api_version": null,
     "account": … (only a connected one), "data": {"object": {"object": "timer", "id": timer key, …}}}

Its times are seconds since the epoch. Its id is derived from the timer's key and due time: the same timer appended
twice is one event, and a timer that was moved gives a different event.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.state import Timer, derived_id

TIMER_PREFIX = "tmr"
"""The first part of the ids of these events."""
RETRY = "retry"
"""The kind of timer for a waiting event. When it is due, the scheduler appends the waiting event again."""

LINKING_TIMERS = frozenset({"dispute-link"})
"""Kinds that complete rows and remind no one, so they are started for imported objects, too."""


MAILING_TIMERS = frozenset({"card-expiring", "dunning-reminder", "method-detached", "trial-reminder", "win-back"})
"""Kinds whose rule mails the customer, unless the state at that time gives no reason to."""


class TimerDue(BaseModel):
    """`data.object` of a timer's event. `due_at` is in whole seconds; `data` is what the timer was started with."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    timer_key: str = Field(alias="id")
    kind: str
    subject: str
    customer: str | None = None
    due_at: AwareDatetime
    data: dict[str, Any] = Field(default_factory=dict)


def retry_key(event_id: str) -> str:
    """Returns the key of a waiting event's timer. Each waiting event has one."""
    return f"{RETRY}:{event_id}"


def timer_event_type(kind: str) -> str:
    return f"timer.{kind}"


def timer_event(timer: Timer) -> dict[str, Any]:
    """Returns the event of a due timer."""
    due_at = int(timer.due_at.timestamp())
    return {
        "object": "event",
        "id": derived_id(TIMER_PREFIX, timer.timer_key, timer.due_at.astimezone(UTC).isoformat()),
        "type": timer_event_type(timer.kind),
        "created": due_at,
        "livemode": timer.livemode,
        "api_version": None,
        **({"account": timer.account} if timer.account else {}),
        "data": {
            "object": {
                "object": "timer",
                "id": timer.timer_key,
                "kind": timer.kind,
                "subject": timer.subject,
                "customer": timer.customer_id or None,
                "due_at": due_at,
                "data": dict(timer.data),
            }
        },
    }
