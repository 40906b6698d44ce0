"""The result of processing one event. The agent acts only on these (docs/decisions.md 4)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Applied:
    """The effects of the event are committed."""

    reason: str | None = None
    """A remark on something in the event that could not be used."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The event is already in the ledger, or occurs earlier in the same batch."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The stored row is newer and was not overwritten."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """No rule handles this type."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The event refers to an object that is not known yet. It is retried at `until` (UTC)."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The event can't be applied and is dead-lettered with its reason."""

    error_class: str
    reason: str
    stage: str
    """`decode`, `decide` or `store`."""
    traceback: str = ""


Verdict = Applied | Duplicate | Stale | Ignored | Waiting | Dead


SETTLED = ("applied", "ignored", "stale")
"""Outcomes in the ledger that make another delivery a duplicate. Waiting and dead events may be processed again."""


def outcome_of(verdict: Verdict) -> str:
    """Returns the name of the verdict in the ledger and the logs."""
    return type(verdict).__name__.lower()
