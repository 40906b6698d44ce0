"""Limits the log lines about refused requests: anyone on the internet can cause them. Metrics count each (A6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

EVERY_S = 60.0
LINES_PER_CLIENT = 5
"""Lines per reason and client in `EVERY_S`."""
LINES = 60
"""Lines of all clients together in `EVERY_S`."""
MAX_CLIENTS = 1000
"""Pairs of reason and client that are counted separately; further ones count as client `others`."""
_SUMMARIES = 20


@dataclass(slots=True)
class RefusalLog:
    """Decides which refusals get a log line, and reports how many got none."""

    clock: Callable[[], float] = time.monotonic
    _since: float = field(default=0.0)
    _lines: int = 0
    _counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _left_out: dict[tuple[str, str], int] = field(default_factory=dict)

    def admits(self, reason: str, client: str | None) -> bool:
        """Returns whether this refusal gets a line, and counts it. Reports the last interval if it is over."""
        self.report()
        key = (reason, client or "unknown")
        if key not in self._counts and len(self._counts) >= MAX_CLIENTS:
            key = (reason, "others")
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count <= LINES_PER_CLIENT and self._lines < LINES:
            self._lines += 1
            return True
        self._left_out[key] = self._left_out.get(key, 0) + 1
        return False

    def report(self, *, is_last: bool = False) -> None:
        """Logs the number of lines left out, at most once per interval."""
        now = self.clock()
        if not is_last and now - self._since < EVERY_S:
            return
        ranked = sorted(self._left_out.items(), key=lambda item: -item[1])
        rest: dict[tuple[str, str], int] = dict(ranked[:_SUMMARIES])
        for (reason, _), count in ranked[_SUMMARIES:]:
            rest[reason, "others"] = rest.get((reason, "others"), 0) + count
        for (reason, client), count in rest.items():
            log.warning(
                "webhook.refusals_left_out",
                action="webhook.refusals_left_out",
                outcome=reason,
                client=client,
                left_out=count,
            )
        self._since, self._lines = now, 0
        self._counts.clear()
        self._left_out.clear()
