"""What the log and the metrics say of the result of one row."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from sinks.outbox.verdicts import Done, Failed, NotTried, NotYet, RetryAt, RowRefused, Verdict, Withheld


def reported(verdict: Verdict, now: datetime, done: str) -> tuple[str, str, dict[str, object]]:
    """Returns the outcome, the level of the log line, and its fields.

    `now` (UTC) is the time of the claim, `done` the outbox's status of delivered rows.
    """
    match verdict:
        case Done():
            return verdict.outcome or done, "info", dict(verdict.details)
        case RetryAt():
            return "retried", "warning", _again(now, verdict)
        case NotYet():
            return verdict.outcome, "info", _again(now, verdict)
        case Failed():
            return "failed", "error", {"reason": verdict.reason}
        case Withheld():
            return "withheld", "info", {"reason": verdict.reason}
        case NotTried():
            return "given_back", "warning", {"reason": verdict.reason}
        case RowRefused():
            raise AssertionError("judged before")
        case _:
            assert_never(verdict)


def _again(now: datetime, verdict: RetryAt | NotYet) -> dict[str, object]:
    return {"next_attempt_at": (now + verdict.after).isoformat(), "reason": verdict.reason}
