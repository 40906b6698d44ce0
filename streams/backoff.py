"""How long to wait before trying again: 0.1 s, doubled, to at most 15 s.

With jitter, so that workers that met the same trouble don't come back in step.
"""

from __future__ import annotations

import random

_FIRST_S, _LONGEST_S = 0.1, 15.0


def pause(attempt: int, *, spread: float | None = None) -> float:
    """Seconds to wait after try number `attempt` (from 1). `spread` in [0, 1) replaces chance in tests."""
    longest: float = min(_LONGEST_S, _FIRST_S * 2 ** min(attempt - 1, 20))
    return longest * (0.5 + 0.5 * (random.random() if spread is None else spread))  # noqa: S311  # no secret
