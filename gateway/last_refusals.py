"""The newest refused requests of this process, so that an operator can look one up (`billing refusals`).

They are in memory only: a gateway needs no database, and its log has them for longer. Requests with a valid signature
have places of their own, so that a flood of unsigned ones never pushes them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

KEPT = 200
"""Refusals with an event id, and as many without one."""
_SHOWN = ("endpoint", "outcome", "status", "reason", "peer", "event_id", "type", "account", "livemode")


@dataclass(slots=True)
class LastRefusals:
    """Nothing of a body is kept, and of an event only what was read after its signature held."""

    _signed: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _unsigned: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, facts: Mapping[str, object]) -> None:
        """Adds one. `facts` are those of its log line."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"at": at, **{name: facts[name] for name in _SHOWN if name in facts}}
        (self._signed if "event_id" in facts else self._unsigned).append(row)

    def rows(self) -> list[dict[str, Any]]:
        """Returns them, the newest first."""
        return sorted([*self._signed, *self._unsigned], key=lambda row: str(row["at"]), reverse=True)
