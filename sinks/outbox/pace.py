"""The intervals and limits of an outbox's loop (loop.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopPace:
    """Intervals and limits of the loop, in seconds of real time."""

    poll_s: float = 3.0
    store_pause_s: float = 2.0
    finish_s: float = 30.0
    """After `stop`, time for rows being delivered to finish."""
    give_back_s: float = 5.0
    """After that, time for releasing the rows that were not tried."""
    stuck_s: float = 900.0
    """A lane without progress for this long counts as stuck. A try and storing its result take at most one claim."""
    claim_size: int = 1
    """Rows per claim. All of them must end within the claim's duration."""
    largest_claim: int = 1
    """A lane that delivers its claims quickly doubles them up to this number of rows."""
