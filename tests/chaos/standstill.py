"""How long each partition paused while it had work, computed from the ledger after a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class LaneEvent:
    """One event of a lane (a partition of one group): when it was received and applied, in seconds since the epoch."""

    lane: Hashable
    received_at: float
    applied_at: float


@dataclass(frozen=True, slots=True)
class Standstill:
    """From `since` to `until` a lane had work but applied nothing."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


def standstills(steps: Iterable[LaneEvent]) -> dict[Hashable, list[Standstill]]:
    """Standstills by lane, in order: the times between two applications in which an unapplied event was waiting."""
    lanes: dict[Hashable, list[LaneEvent]] = defaultdict(list)
    for step in steps:
        lanes[step.lane].append(step)
    return {lane: list(_of_lane(taken)) for lane, taken in lanes.items()}


def _of_lane(steps: list[LaneEvent]) -> Iterable[Standstill]:
    steps = sorted(steps, key=lambda step: step.applied_at)
    # From the end: the earliest arrival among the events that are not applied yet.
    waiting = list(accumulate((step.received_at for step in reversed(steps)), min))[::-1]
    for (before, after), oldest in zip(pairwise(steps), waiting[1:], strict=True):
        since = max(before.applied_at, oldest)
        if after.applied_at > since:
            yield Standstill(since, after.applied_at)


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest standstill of each lane in a span of time, in seconds."""

    seconds: Sequence[float]

    @property
    def worst(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def middle(self) -> float:
        return median(self.seconds) if self.seconds else 0.0

    def longer_than(self, seconds: float) -> int:
        """Number of lanes with a standstill longer than that."""
        return sum(one > seconds for one in self.seconds)


def longest_between(found: Mapping[Any, Sequence[Standstill]], since: float, until: float) -> Longest:
    """The longest standstill of each lane, counting only the part within the span."""
    return Longest(
        [
            max((max(0.0, min(still.until, until) - max(still.since, since)) for still in stills), default=0.0)
            for stills in found.values()
        ]
    )
