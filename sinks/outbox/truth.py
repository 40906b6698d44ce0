"""The check right before a row is delivered: what it claims must still be true (docs/architecture.md, "Truth").

A check receives the claimed row and a connection to Postgres, and returns one of four answers:

- None: deliver the row as it is;
- `Withheld(reason)`: do not deliver it. The row gets the status `withheld`, and the reason is stored and logged;
- `NotYet(after, reason)`: ask again after this time, for a row that is incomplete for now;
- a mapping: deliver the row with this data in place of the data that was queued.

It must not write. If it raises StoreUnavailable, the row stays claimed and is tried again after its claim has expired;
any other exception makes the row `failed`, which an operator sees.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sinks.outbox.verdicts import NotYet, Withheld

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

R = TypeVar("R")

Answer = Withheld | NotYet | Mapping[str, Any] | None
Truth = Callable[[R, "Connection"], Awaitable[Answer]]
