"""Stops dead-lettering when so many events fail that the code itself must be broken (D5). Runs before the commit.

    verdicts of a batch ─▶ allowed? ── all of it ──▶ commit ─▶ passed
                              └── up to its last good event ──▶ the worker commits that part and stops

The code is not to blame if one connected account has all dead events, and enough events of others were good meanwhile:
the account is set aside. Its events are still tried, and those that die are dead letters, but they no longer count, so
the other events go on. Without good events of others that needs another proof: all dead events are malformed, which is
what their sender wrote, and no other account is set aside. A broken deploy that meets only one large account trips.

Pure: the processor calls it, and the worker stores that the brake holds (sinks/postgres/brakes.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schemas.errors import BillingError, MalformedEvent, NeverKnown
from schemas.verdict import Applied, Dead, Stale, Verdict, Waiting

_SAMPLE = 5
"""Number of reasons in a message."""
_MOST_ASIDE = 5
"""Accounts that are set aside at the same time. When even more fail, the code is the likely cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The brake trips at `ratio` dead of the last `window` events (and at least `least`), or at `run` dead in a row."""

    window: int = 200
    least: int = 20
    """Also the number of good events of others in the window that prove that only one account fails."""
    ratio: float = 0.5
    run: int = 50
    """Also the number of good events in a row after which an account that was set aside counts again."""


class BrakeTripped(BillingError):
    """More events died than the limits allow. `reasons` is a sample, the most frequent first.

    The first `safe` records of the batch may still be committed: they end with a good event.
    """

    def __init__(self, message: str, reasons: Sequence[str], safe: int = 0) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        self.safe = safe


class Judged(NamedTuple):
    """A verdict, and the connected account of its event; an empty one is the platform, which is never set aside."""

    verdict: Verdict
    account: str = ""


class _Seen(NamedTuple):
    dead: Dead | None
    account: str


class Brake:
    """The last verdicts of one worker. The next `let_die` dead events do not count; an operator allowed them."""

    def __init__(self, limits: Limits | None = None, *, let_die: int = 0) -> None:
        self._limits = limits or Limits()
        self._past: deque[_Seen] = deque(maxlen=self._limits.window)
        self._dead = 0
        self._run = 0
        self._let_die = let_die
        self._aside: dict[str, int] = {}
        """The accounts that are set aside, and how many of their events in a row were good since."""

    @property
    def aside(self) -> frozenset[str]:
        """Returns the connected accounts whose dead events do not count."""
        return frozenset(self._aside)

    def allow_more(self, dead: int) -> None:
        """Allows this many more dead events that do not count."""
        self._let_die += dead

    def check(self, judged: Sequence[Judged]) -> None:
        """Raises BrakeTripped if these verdicts, in their order, would exceed the limits. Does not change the state."""
        if not any(isinstance(one.verdict, Dead) for one in judged):
            return
        trial = Brake(self._limits, let_die=self._let_die)
        trial._past.extend(self._past)
        trial._dead, trial._run, trial._aside = self._dead, self._run, dict(self._aside)
        safe = 0
        for number, one in enumerate(judged, 1):
            is_allowed = trial._add(one)
            if trial._too_many() is not None and trial._set_aside():
                is_allowed = True
            if (why := trial._too_many()) is not None:
                raise BrakeTripped(why, _sample(trial._past), safe)
            if is_allowed or not isinstance(one.verdict, Dead):
                safe = number

    def passed(self, judged: Sequence[Judged]) -> None:
        """Counts verdicts that are committed."""
        for one in judged:
            self._add(one)
            if self._too_many() is not None:
                self._set_aside()

    def _add(self, judged: Judged) -> bool:
        """Returns whether the verdict is a dead event that does not count."""
        verdict, account = judged
        if not counts_for_brake(verdict):
            return False
        dead = verdict if isinstance(verdict, Dead) else None
        if account in self._aside:  # first: its dead events do not use up what an operator allowed
            self._aside[account] = 0 if dead else self._aside[account] + 1
            if self._aside[account] >= self._limits.run:
                del self._aside[account]
            return dead is not None
        if dead is not None and self._let_die > 0:
            self._let_die -= 1
            return True
        dropped = self._past[0].dead if len(self._past) == self._limits.window else None
        self._dead += (dead is not None) - (dropped is not None)
        self._run = self._run + 1 if dead else 0
        self._past.append(_Seen(dead, account))
        return False

    def _set_aside(self) -> bool:
        """Sets the account of all dead events aside, if there is proof that the code is not to blame."""
        dead = [seen.dead for seen in self._past if seen.dead is not None]
        accounts = {seen.account for seen in self._past if seen.dead is not None}
        if len(accounts) != 1 or "" in accounts or len(self._aside) >= _MOST_ASIDE:
            return False
        others = [seen for seen in self._past if seen.account not in accounts]
        if len(others) < self._limits.least and (self._aside or not all(map(_is_malformed, dead))):
            return False
        self._past, self._dead, self._run = deque(others, maxlen=self._limits.window), 0, 0
        self._aside[accounts.pop()] = 0
        return True

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
    return isinstance(verdict, (Applied, Stale, Waiting))  # a tuple: `X | Y` would be built again for each event


def _is_malformed(dead: Dead) -> bool:
    """Whether the event could not be read, which is about its content. All other errors may be the code's."""
    return dead.error_class == MalformedEvent.__name__ and dead.stage == "decode"


def _sample(past: deque[_Seen]) -> list[str]:
    counted = Counter(f"{seen.dead.error_class}: {seen.dead.reason}" for seen in past if seen.dead is not None)
    return [f"{count} times {reason}" for reason, count in counted.most_common(_SAMPLE)]
