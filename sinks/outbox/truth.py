"""The check right before rows are delivered: what they claim must still be true (docs/architecture.md, "Truth").

A check receives claimed rows and a connection to Postgres, and returns one answer for each row:

- None: deliver the row as it is;
- `Withheld(reason)`: do not deliver it. The row gets the status `withheld`, and the reason is stored and logged;
- `NotYet(after, reason)`: ask again after this time, for a row that is incomplete for now;
- a mapping: deliver the row with these values, by the name of its attribute, in place of those of the claim;
- an exception: the row cannot be checked. It becomes `failed`, which an operator sees.

It must not write. If it raises StoreUnavailable, the rows stay claimed and are tried again after their claim has
expired; after any other exception the rows are checked one by one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from schemas.errors import StoreUnavailable
from sinks.outbox.verdicts import NotYet, Withheld

if TYPE_CHECKING:
    import asyncpg

    from sinks.outbox.claims import Claims

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

R = TypeVar("R")

VALID_S = 1.0
"""Seconds after which the answer for a row that has not been delivered yet is asked for again."""

Answer = Withheld | NotYet | Mapping[str, Any] | None
Truth = Callable[[Sequence[R], "Connection"], Awaitable[Sequence[Answer | Exception]]]


class Answers(Generic[R]):
    """The answers for the rows of one claim. They are asked for together: one question costs little more for many."""

    def __init__(self, truth: Truth[R], claims: Claims[Any]) -> None:
        self._truth = truth
        self._claims = claims
        self._answers: list[Answer | Exception] = []
        self._asked_at = 0.0

    async def next(self, rows: Sequence[R]) -> Answer | Exception:
        """Return the answer for the first of `rows`, the claimed rows that are not delivered yet, in order.

        Raises StoreUnavailable.
        """
        if len(self._answers) != len(rows) or time.monotonic() > self._asked_at + VALID_S:
            self._asked_at = time.monotonic()
            self._answers = await self._ask(rows)
        return self._answers.pop(0)

    async def _ask(self, rows: Sequence[R]) -> list[Answer | Exception]:
        try:
            async with self._claims.connection() as connection:
                return list(await self._truth(rows, connection))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # the loop logs it
            # Triggered by one row's data. That row fails, the others are checked without it.
            if len(rows) == 1:
                return [error]
        return [answer for row in rows for answer in await self._ask([row])]
