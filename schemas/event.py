"""One decoded Stripe event: the envelope that all types share, with its object as the model that its rule needs."""

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
    """`object` is `data.object` as model `M`. `previous` is `data.previous_attributes` as sent, {} if there is none.

    `created` is in seconds since the epoch, Stripe's resolution. `at` is the same time as a UTC datetime.
    """

    id: str
    type: str
    created: int
    livemode: bool
    account: str
    """The connected account, '' for the platform's own account."""
    customer_id: str | None
    api_version: str | None
    previous: Mapping[str, Any]
    object: M
    rank: int = 50
    terminal: bool = False
    version: Version = field(init=False, repr=False)
    """The version of everything this event writes. `rank` and `terminal` come from its rule."""

    def __post_init__(self) -> None:
        new_version = version(self.created, self.rank, self.id, terminal=self.terminal)
        object.__setattr__(self, "version", new_version)  # stored, because each rule reads it several times

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.created, UTC)
