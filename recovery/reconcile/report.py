"""The report of a reconciliation, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

_AGES = (
    ("under an hour", timedelta(hours=1)),
    ("1 to 6 hours", timedelta(hours=6)),
    ("6 to 24 hours", timedelta(hours=24)),
    ("1 to 7 days", timedelta(days=7)),
)
_OLDEST_AGE = "over 7 days"
SHOWN = 100
"""Maximum number of missing events that a report lists."""


@dataclass(frozen=True, slots=True)
class MissingEvent:
    """An event that is neither in the ledger nor on the log. `age` is one of `age_of`."""

    id: str
    type: str
    created: datetime
    age: str


@dataclass(slots=True)
class SliceFindings:
    """What a report counts of a slice once the cursor is after it. The names are those of ReconcileReport."""

    listed: int
    on_the_way: int = 0
    too_large: int = 0
    not_fed: list[MissingEvent] = field(default_factory=list)
    """Missing events that were not appended: too large, or found by a dry run."""


@dataclass(slots=True)
class ReconcileReport:
    """The report of one account. Times are UTC.

    `listed`: events in Stripe's list. `on_the_way`: on the log, not processed yet. `missing`: neither in the ledger nor
    on the log. `fed`: missing events that were appended to the log. They count at once, all else after each slice.
    """

    account: str
    window_from: datetime
    window_until: datetime
    resumed_at: datetime | None = None
    """Where an interrupted run is resumed."""
    listed: int = 0
    on_the_way: int = 0
    missing: int = 0
    fed: int = 0
    too_large: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    by_age: Counter[str] = field(default_factory=Counter)
    oldest_missing: datetime | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    trouble: str | None = None
    is_unavailable: bool = False
    """Whether the trouble can pass: Kafka did not answer, or Stripe did not or refused for a time (HTTP 409, 429, 5xx,
    or the header Stripe-Should-Retry)."""

    def note_missing(self, event: MissingEvent) -> None:
        self.missing += 1
        self.by_type[event.type] += 1
        self.by_age[event.age] += 1
        self.oldest_missing = min(self.oldest_missing or event.created, event.created)
        if len(self.examples) < SHOWN:
            self.examples.append({"event_id": event.id, "type": event.type, "created": event.created})

    def note_fed(self, events: Sequence[MissingEvent]) -> None:
        """Counts missing events once the log has them: whoever reads their slice again does not find them missing."""
        self.fed += len(events)
        for event in events:
            self.note_missing(event)

    def note_slice(self, found: SliceFindings) -> None:
        """Counts the rest of a slice, which must not be read again."""
        self.listed += found.listed
        self.on_the_way += found.on_the_way
        self.too_large += found.too_large
        for event in found.not_fed:
            self.note_missing(event)

    def counts_with(self, found: SliceFindings) -> dict[str, int]:
        """Return the counts as they are after `note_slice`."""
        more = {
            "listed": found.listed,
            "on_the_way": found.on_the_way,
            "missing": len(found.not_fed),
            "too_large": found.too_large,
        }
        return {name: count + more.get(name, 0) for name, count in self.counts.items()}

    def plain(self) -> dict[str, Any]:
        """Return the report for JSON. (`asdict` cannot copy a Counter.)"""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"by_type": dict(self.by_type), "by_age": dict(self.by_age)}

    @property
    def counts(self) -> dict[str, int]:
        """The counts stored in the run's row."""
        names = ("listed", "on_the_way", "missing", "fed", "too_large")
        return {name: getattr(self, name) for name in names}


def age_of(created: datetime, now: datetime) -> str:
    age = now - created
    return next((name for name, limit in _AGES if age < limit), _OLDEST_AGE)


def moment(seconds: object) -> datetime:
    """Convert Stripe's `created` (seconds) to UTC. Raises ValueError."""
    if type(seconds) is not int or not 0 <= seconds <= 4_102_444_800:
        raise ValueError("not a time in whole seconds")
    return datetime.fromtimestamp(seconds, UTC)
