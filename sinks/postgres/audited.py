"""Records an action outside Postgres, such as a replay into Kafka: `begun` before it, and how it ended after it.

An action in Postgres is recorded in its own transaction instead (audit_log.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import SecretStr

from schemas.errors import StoreUnavailable
from sinks.postgres.audit_log import ActionOutcome, AuditEntry, complete_in, record_in
from sinks.postgres.failures import classified
from sinks.postgres.pool import make_engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(slots=True)
class Noted:
    """What the action reports about itself, for the entry's completion."""

    count: int | None = None
    """How many rows, events or objects it changed."""
    trouble: str | None = None
    """Why it ended before its end, although nothing was raised."""


@asynccontextmanager
async def recorded(
    url: SecretStr, entry: AuditEntry, *, refused: tuple[type[Exception], ...] = ()
) -> AsyncIterator[Noted]:
    """Records the entry as `begun`, runs the block, and completes the entry as `done` or `failed`.

    `refused` are errors that mean that the action was not allowed to begin.

    A process that is killed in between leaves `begun`. Raises StoreUnavailable before the block runs, so that nothing
    happens without a record, and what the block raises.
    """
    engine = make_engine(url, application="billing-audit")
    with classified():
        async with engine.begin() as connection:
            entry_id = await record_in(connection, replace(entry, outcome=ActionOutcome.BEGUN))
    noted = Noted()
    try:
        yield noted
    except BaseException as error:
        noted.trouble = f"{type(error).__name__}: {error}"
        outcome = ActionOutcome.REFUSED if isinstance(error, refused) else ActionOutcome.FAILED
        with suppress(StoreUnavailable):  # the block's own error says more; the entry stays `begun`
            await _complete(engine, entry_id, noted, outcome)
        raise
    await _complete(engine, entry_id, noted, ActionOutcome.DONE if noted.trouble is None else ActionOutcome.FAILED)


async def _complete(engine: AsyncEngine, entry_id: int, noted: Noted, outcome: ActionOutcome) -> None:
    with classified():
        async with engine.begin() as connection:
            await complete_in(connection, entry_id, outcome, count=noted.count, note=noted.trouble)
