"""Detects partitions with lag whose committed offset has not moved. Used by the watchdogs of worker and analytics."""

from __future__ import annotations

from collections.abc import Mapping

from eventlog.lag import GroupPosition
from schemas.timing import Stillness


class CommitWatch:
    """Remembers each partition's committed offset and how long it has not moved. The caller passes the time."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._partitions: dict[int, Stillness] = {}

    def look(self, now: float, places: Mapping[int, GroupPosition], *, is_excused: bool = False) -> str | None:
        """Returns why the process must end, or None. Forgets partitions that are not in `places`."""
        self._partitions = {at: self._partitions.get(at) or Stillness(self._limit_s) for at in places}
        stuck = {}
        for partition, place in places.items():
            excused = is_excused or place.lag <= 0
            still = self._partitions[partition].look(now, place.committed, is_excused=excused)
            if still is not None:
                stuck[partition] = f"{partition} at {place.committed}, lag {place.lag}, for {still:.0f} s"
        if not stuck:
            return None
        return f"committed offsets have not moved while the lag is above zero: partition {'; '.join(stuck.values())}"
