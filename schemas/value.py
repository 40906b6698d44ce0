"""`@value` is `@dataclass` for the rows and records of the hot path: frozen for whoever writes code, not when it runs.

At run time each field of a frozen dataclass is set through `object.__setattr__`, three to four times as dear, and a
batch makes some ten thousand of these. The type checker, which is asked on every change, refuses an assignment all
the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(**options):
        """As `dataclass(frozen=True, …)`, hashable too."""
        return dataclass(**{**options, "frozen": False, "unsafe_hash": True})


__all__ = ["value"]
