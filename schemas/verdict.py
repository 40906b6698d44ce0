"""What came of one event: the agent acts on these and on nothing else (design.md 4)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Applied:
    """Its effects are committed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The ledger holds it already, or it stands earlier in the same batch."""


@dataclass(frozen=True, slots=True)
class Stale:
    """What is stored is newer; nothing of it was overwritten."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """No rule asks for this type."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """It refers to something not known yet, and is tried again at `until` (UTC)."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """It can't be applied: dead-lettered with its reason."""

    error_class: str
    reason: str
    stage: str
    """`decode`, `decide` or `store`."""
    traceback: str = ""


Verdict = Applied | Duplicate | Stale | Ignored | Waiting | Dead


def outcome_of(verdict: Verdict) -> str:
    """The verdict as the ledger and the logs write it."""
    return type(verdict).__name__.lower()
