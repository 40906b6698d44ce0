"""Beside each consumer: does what its group has committed move, while there is more to read?"""

from __future__ import annotations

from collections.abc import Mapping

from eventlog.lag import GroupPosition
from schemas.timing import Stillness


class CommitWatch:
    """Partitions of ours with records left whose committed offset stands still. Pure but for the time it is given."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._partitions: dict[int, Stillness] = {}

    def look(self, now: float, places: Mapping[int, GroupPosition], *, is_excused: bool = False) -> str | None:
        """A reason to end. Partitions that are not in `places` are forgotten."""
        self._partitions = {at: self._partitions.get(at) or Stillness(self._limit_s) for at in places}
        stuck = {}
        for partition, place in places.items():
            excused = is_excused or place.lag <= 0
            still = self._partitions[partition].look(now, place.committed, is_excused=excused)
            if still is not None:
                stuck[partition] = f"{partition} at {place.committed}, {place.lag} behind, for {still:.0f} s"
        if not stuck:
            return None
        return f"committed offsets stand still while the lag is above zero: partition {'; '.join(stuck.values())}"
