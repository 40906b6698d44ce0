"""`@value`: a faster `@dataclass` for rows and records of the hot path. Frozen for mypy, not at run time.

A frozen dataclass sets each field through `object.__setattr__`, which takes three to four times as long, and a batch
creates about ten thousand rows. For the type checker `@value` is a frozen dataclass with slots, so mypy still refuses
assignments and unknown fields. Without slots, `replace` copies a dictionary in an eighth of the time of
`dataclasses.replace`, `__eq__` compares the dictionaries in a fifth of the time of a generated `__eq__`, and a function
of `values_of` reads many fields in half the time of `operator.attrgetter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as value
    from dataclasses import replace
else:
    from dataclasses import dataclass

    def value(**options):
        """Like `dataclass(**options)`, but at run time always hashable, and never frozen or slotted."""

        def decorate(kind):
            kind.__eq__ = _equal
            return dataclass(**{**options, "frozen": False, "slots": False, "eq": False, "unsafe_hash": True})(kind)

        return decorate

    def _equal(one, other):
        if type(one) is not type(other):
            return NotImplemented
        return one.__dict__ == other.__dict__

    def replace(row, **changes):
        """Like `dataclasses.replace`, for classes whose instances have only their fields."""
        kind = type(row)
        if not changes.keys() <= kind.__dataclass_fields__.keys():
            raise TypeError(f"{kind.__name__} has no {', '.join(changes.keys() - kind.__dataclass_fields__.keys())}")
        new = object.__new__(kind)
        new.__dict__ = row.__dict__ | changes
        return new


def values_of(kind: type[Any], names: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Returns a function that returns these fields (at least two) of an instance of the dataclass."""
    if "__slots__" in vars(kind):
        return attrgetter(*names)
    read: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*names)
    return lambda row: read(row.__dict__)


__all__ = ["replace", "value", "values_of"]
