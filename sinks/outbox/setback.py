"""Notices that the database was restored under a running dispatcher: it may have rows queued that were sent already.

The positions of the worker groups (sinks/postgres/positions.py) only grow, unless a backup is restored or a replica
without the last commits is promoted. A worker notices that too, and withholds these rows, but the dispatcher may be
faster. So it delivers nothing until the worker has noticed, or the positions have reached what was seen before. The
positions are read before a lane asks what is due, and after each claim: 0.3 ms of CPU each with 12 partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

READ = "SELECT consumer_group, topic, partition, next_offset, reread_until, topic_id FROM billing.positions"
REASON = "the database was restored, and no worker has read the log again yet; what may have been sent waits"


@dataclass(frozen=True, slots=True)
class _Seen:
    next_offset: int
    reread_until: int | None
    topic_id: str | None

    def has_lost(self, now: _Seen | None) -> bool:
        """Returns whether the position is behind what was seen, and no worker has noted that.

        Without the topic's id this looks like a topic that was created again. A database that is restored a second time
        while it is read again has a lower `reread_until`, or none.
        """
        if now is None:
            return True
        until, known = now.reread_until or 0, self.reread_until or 0
        is_behind = now.next_offset < self.next_offset and until <= known
        return now.topic_id == self.topic_id is not None and (is_behind or max(now.next_offset, until) < known)


@dataclass(slots=True)
class Setback:
    """What one outbox has seen of the positions since its process began."""

    _seen: dict[tuple[str, str, int], _Seen] = field(default_factory=dict)

    def is_in(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Returns whether the rows of READ are behind what was seen; else notes them."""
        now = {
            (row["consumer_group"], row["topic"], row["partition"]): _Seen(
                row["next_offset"], row["reread_until"], row["topic_id"]
            )
            for row in rows
        }
        if any(seen.has_lost(now.get(place)) for place, seen in self._seen.items()):
            return True
        self._seen = now
        return False
