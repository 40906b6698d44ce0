"""What a reconciliation found, for people and for scripts."""

from __future__ import annotations

from collections import Counter
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
"""Missing events that a report names."""


@dataclass(slots=True)
class ReconcileReport:
    """One account's. `missing` counts what neither the ledger nor the log has, `fed` what of it the log has taken."""

    account: str
    window_from: datetime
    window_until: datetime
    resumed_at: datetime | None = None
    """Where a run that was broken off is taken up."""
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

    def note_missing(self, event_id: str, type_: str, created: datetime, now: datetime) -> None:
        self.missing += 1
        self.by_type[type_] += 1
        self.by_age[age_of(created, now)] += 1
        self.oldest_missing = min(self.oldest_missing or created, created)
        if len(self.examples) < SHOWN:
            self.examples.append({"event_id": event_id, "type": type_, "created": created})

    def plain(self) -> dict[str, Any]:
        """For JSON. (`asdict` makes no Counter of a Counter.)"""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"by_type": dict(self.by_type), "by_age": dict(self.by_age)}

    @property
    def counts(self) -> dict[str, int]:
        """As the run's row keeps them."""
        names = ("listed", "on_the_way", "missing", "fed", "too_large")
        return {name: getattr(self, name) for name in names}


def age_of(created: datetime, now: datetime) -> str:
    age = now - created
    return next((name for name, limit in _AGES if age < limit), _OLDEST_AGE)


def moment(seconds: object) -> datetime:
    """Stripe's `created`. Raises ValueError."""
    if type(seconds) is not int or not 0 <= seconds <= 4_102_444_800:
        raise ValueError("no time in whole seconds")
    return datetime.fromtimestamp(seconds, UTC)
