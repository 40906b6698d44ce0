"""The results of trying to deliver one row of an outbox. `deliver` returns them, and the loop stores them (loop.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The row is delivered. `columns` are stored with it, `details` are logged."""

    columns: Mapping[str, object] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    status: str | None = None
    """The row's new status, if it is not the outbox's status for delivered rows."""
    outcome: str | None = None
    """The outcome in logs and metrics, if it is not that status."""
    group: str = ""
    """What the row belongs to, as in RowRefused."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The failure concerns this row only: it is due again `after` this time. The try counts."""

    after: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class NotYet:
    """The row cannot be delivered yet: it is due again `after` this time. The try does not count."""

    after: timedelta
    reason: str
    outcome: str = "waits"


@dataclass(frozen=True, slots=True)
class Failed:
    """The row will not be delivered, unless an operator requeues it."""

    reason: str
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Withheld:
    """The row is not delivered on purpose. No alarm counts it, and only an operator can requeue it."""

    reason: str
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRefused:
    """The other side refuses the row with an answer that may be about us, and not about this row (refusals.py)."""

    reason: str
    """The other side's answer."""
    subject: str
    """What was refused: a recipient, an object."""
    verdict: RetryAt | Failed
    """The verdict if the answer is about this row."""
    later: RetryAt | Failed
    """The verdict as long as nothing shows whether it is about this row or about us."""
    group: str = ""
    """What the subject belongs to: a recipient's domain, a resource."""


@dataclass(frozen=True, slots=True)
class NotTried:
    """No row can be delivered now. The try does not count, and all lanes pause for `at_least` or longer.

    Without a reason, only this claim is too short; the other rows do not pause.
    """

    reason: str | None = None
    at_least: timedelta = timedelta(0)


Verdict = Done | RetryAt | NotYet | Failed | Withheld | RowRefused | NotTried
