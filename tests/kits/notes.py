"""A stream for tests that records every application: each event's id is appended to its user's trail.

A trail shows what was applied, how often and in which order. The state of real rules converges and cannot show this.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel

from schemas.effects import Effect, NoteStale, QueueEmail, Save
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.known import Known
from schemas.record import RecordHeaders, Source
from schemas.references import References
from schemas.state import User
from streams.rules.registry import Stream


class NoteObject(BaseModel):
    """`trouble` selects how the rule fails: `rule`, `bug`, `stale`, or empty for success."""

    user: str
    text: str = ""
    trouble: str = ""


notes = Stream("notes")


@notes.on("note.written", model=NoteObject, refer=lambda event: References(users={("", event.object.user)}))
def on_note(event: Event[NoteObject], known: Known) -> list[Effect]:
    """Append the note's text, or the event's id if there is none, to the user's trail, and queue one mail."""
    if event.object.trouble == "rule":
        raise RuleViolated("this note is not allowed")
    if event.object.trouble == "bug":
        raise ZeroDivisionError("an unforeseen bug")
    if event.object.trouble == "stale":
        return [NoteStale("a newer note is stored")]
    before = known.user("", event.object.user)
    text = event.object.text or event.id
    trail = f"{before.email},{text}" if before and before.email else text
    return [
        Save(User(account="", user_id=event.object.user, email=trail)),
        QueueEmail(key=f"note:{event.id}", template="note", account="", customer_id="cus_1"),
    ]


def note_body(event_id: str, user: str = "u1", *, type_: str = "note.written", **fields: Any) -> bytes:
    """The event's JSON body as Stripe posts it."""
    return orjson.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": type_,
            "created": 1_700_000_000,
            "livemode": False,
            "data": {"object": {"object": "note", "customer": f"cus_{user}", "user": user} | fields},
        }
    )


def note_headers(event_id: str, type_: str = "note.written") -> RecordHeaders:
    """The record headers that the gateway sets for the event."""
    return RecordHeaders(event_id, type_, Source.STRIPE, "", False, "", "default", datetime(2026, 11, 23, tzinfo=UTC))
