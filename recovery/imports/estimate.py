"""Estimates how much of a list at Stripe is left. Stripe does not count, but lists are sorted by creation.

The first page and the oldest object say which span of time the list covers, and each page how much of it is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sinks.stripe_api.listing import ListPage, Lists

_FIRST = 1_293_840_000
"""2011-01-01: there is no older object at Stripe."""
_PROBES = 8
"""Halves the span of time so often: the oldest object is found to about three weeks."""


@dataclass(slots=True)
class Estimate:
    """`oldest`, `newest` and `reached` are `created` of objects, in seconds since the epoch."""

    oldest: int
    newest: int
    reached: int
    began_at: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, oldest: int, first: ListPage) -> Estimate:
        newest = _created(first, 0) or int(first.as_of.timestamp())
        return cls(min(oldest, newest), newest, newest)

    def add(self, page: ListPage) -> None:
        self.reached = min(self.reached, _created(page, -1) or self.reached)

    @property
    def done(self) -> float:
        """The share of the span of time that is read, from 0 to 1."""
        return min(1.0, (self.newest - self.reached) / max(1, self.newest - self.oldest))

    def about(self, read: int) -> int | None:
        """Return the estimated number of objects of the list, None while nothing can be said."""
        return max(read, round(read / self.done)) if self.done > 0 else None

    def left_s(self) -> int | None:
        """Return the estimated seconds until the end of the list, None while nothing can be said."""
        spent = time.monotonic() - self.began_at
        return round(spent * (1 - self.done) / self.done) if self.done > 0 else None


async def oldest(lists: Lists, path: str, params: Mapping[str, Any], account: str, as_of: datetime) -> int:
    """Return about when the oldest object of a list was created. Raises ApiTrouble."""
    filters = {name: value for name, value in params.items() if name != "expand"}
    low, high = _FIRST, max(_FIRST + 1, int(as_of.timestamp()))
    for _ in range(_PROBES):
        middle = (low + high) // 2
        older = await lists.page(path, {**filters, "created": {"lt": middle}}, account, limit=1)
        low, high = (low, middle) if older.items else (middle, high)
    return low


def _created(page: ListPage, at: int) -> int | None:
    created = page.items[at].object.get("created") if page.items else None
    return created if type(created) is int else None
