"""One event of Stripe's, decoded: the envelope all types share, with its object as the model that its rule asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from schemas.fast_row import value
from schemas.version import Version, version

M = TypeVar("M")


@value(frozen=True, slots=True, kw_only=True)
class Event(Generic[M]):
    """`object` is `data.object` as model `M`; `previous` is `data.previous_attributes` as sent, {} where there is none.

    `created` is in seconds since the epoch, Stripe's resolution; `at` is the same as a UTC time.
    """

    id: str
    type: str
    created: int
    livemode: bool
    account: str
    """The connected account, '' for one's own."""
    customer_id: str | None
    api_version: str | None
    previous: Mapping[str, Any]
    object: M
    rank: int = 50
    terminal: bool = False
    version: Version = field(init=False, repr=False)
    """How new whatever this event writes is; `rank` and `terminal` come with its rule."""

    def __post_init__(self) -> None:
        word = version(self.created, self.rank, self.id, terminal=self.terminal)
        object.__setattr__(self, "version", word)  # asked for several times in each rule

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.created, UTC)
