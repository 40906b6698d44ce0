"""Stops dead-lettering when so many events fail that the code itself must be broken (D5). Runs before the commit.

    verdicts of a batch ─▶ allowed? ── all of it ──▶ commit ─▶ passed
                              └── up to its last good event ──▶ the worker commits that part and stops

Pure: the processor calls it, and the worker stores that the brake holds (sinks/postgres/brakes.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import BillingError, NeverKnown
from schemas.verdict import Applied, Dead, Stale, Verdict, Waiting

_SAMPLE = 5
"""Number of reasons in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The brake trips at `ratio` dead of the last `window` events (and at least `least`), or at `run` dead in a row."""

    window: int = 200
    least: int = 20
    ratio: float = 0.5
    run: int = 50


class BrakeTripped(BillingError):
    """More events died than the limits allow. `reasons` is a sample, the most frequent first.

    The first `safe` records of the batch may still be committed: they end with a good event.
    """

    def __init__(self, message: str, reasons: Sequence[str], safe: int = 0) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        self.safe = safe


class Brake:
    """The last verdicts of one worker. The next `let_die` dead events do not count; an operator allowed them."""

    def __init__(self, limits: Limits | None = None, *, let_die: int = 0) -> None:
        self._limits = limits or Limits()
        self._past: deque[Dead | None] = deque(maxlen=self._limits.window)
        self._dead = 0
        self._run = 0
        self._let_die = let_die

    def allow_more(self, dead: int) -> None:
        """Allows this many more dead events that do not count."""
        self._let_die += dead

    def check(self, verdicts: Sequence[Verdict]) -> None:
        """Raises BrakeTripped if these verdicts, in their order, would exceed the limits. Does not change the state."""
        if not any(isinstance(verdict, Dead) for verdict in verdicts):
            return
        trial = Brake(self._limits, let_die=self._let_die)
        trial._past.extend(self._past)
        trial._dead, trial._run = self._dead, self._run
        safe = 0
        for number, verdict in enumerate(verdicts, 1):
            is_allowed = trial._add(verdict)
            if (why := trial._too_many()) is not None:
                raise BrakeTripped(why, _sample(trial._past), safe)
            if is_allowed or not isinstance(verdict, Dead):
                safe = number

    def passed(self, verdicts: Sequence[Verdict]) -> None:
        """Counts verdicts that are committed."""
        for verdict in verdicts:
            self._add(verdict)

    def _add(self, verdict: Verdict) -> bool:
        """Returns whether the verdict is a dead event that an operator allowed."""
        if counts_for_brake(verdict):
            if isinstance(verdict, Dead) and self._let_die > 0:
                self._let_die -= 1
                return True
            dead = verdict if isinstance(verdict, Dead) else None
            dropped = self._past[0] if len(self._past) == self._limits.window else None
            self._dead += (dead is not None) - (dropped is not None)
            self._run = self._run + 1 if dead else 0
            self._past.append(dead)
        return False

    def _too_many(self) -> str | None:
        limits = self._limits
        if self._run >= limits.run:
            return f"{self._run} events in a row died"
        if self._dead >= limits.least and self._dead >= limits.ratio * len(self._past):
            return f"{self._dead} of the last {len(self._past)} events died"
        return None


def counts_for_brake(verdict: Verdict) -> bool:
    """Whether a verdict is evidence about the code. NeverKnown is not: its cause is the sender or a time limit."""
    if isinstance(verdict, Dead):
        return verdict.error_class != NeverKnown.__name__
    return isinstance(verdict, Applied | Stale | Waiting)


def _sample(past: deque[Dead | None]) -> list[str]:
    counted = Counter(f"{dead.error_class}: {dead.reason}" for dead in past if dead is not None)
    return [f"{count} times {reason}" for reason, count in counted.most_common(_SAMPLE)]
