"""`@value` is `@dataclass` for the rows and records of the hot path: frozen for whoever writes code, not when it runs.

At run time each field of a frozen dataclass is set through `object.__setattr__`, three to four times as dear, and a
batch makes some ten thousand of these. The type checker, which is asked on every change, refuses an assignment, or a
field that there is not, all the same. Without slots, `replace` is a copy of a dictionary, an eighth of what
`dataclasses.replace` takes, and two rows are compared as their dictionaries are, a fifth of what a generated `__eq__`
takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
    from dataclasses import replace
else:
    from dataclasses import dataclass

    def value(**options):
        """As `dataclass(frozen=True, …)`, hashable too."""

        def made(kind):
            kind.__eq__ = _equal
            return dataclass(**{**options, "frozen": False, "slots": False, "eq": False, "unsafe_hash": True})(kind)

        return made

    def _equal(one, other):
        if type(one) is not type(other):
            return NotImplemented
        return one.__dict__ == other.__dict__

    def replace(row, **changes):
        """As `dataclasses.replace`, for classes that keep nothing but their fields."""
        kind = type(row)
        if not changes.keys() <= kind.__dataclass_fields__.keys():
            raise TypeError(f"{kind.__name__} has no {', '.join(changes.keys() - kind.__dataclass_fields__.keys())}")
        new = object.__new__(kind)
        new.__dict__ = row.__dict__ | changes
        return new


__all__ = ["replace", "value"]
