"""How many examples the long property tests try.

BILLING_EXAMPLES_TIMES multiplies the numbers (default 1, `make soak` 20): each run of the unit tests tries enough
histories to notice a mistake in a rule, and the soak looks for the rare ones.
"""

from __future__ import annotations

import os

_TIMES = int(os.environ.get("BILLING_EXAMPLES_TIMES", "1"))


def examples(count: int) -> int:
    """`count`, or the multiple of it that the environment asks for."""
    return count * _TIMES
