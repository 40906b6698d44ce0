"""The rows of `billing.imports`: how far the import of an account is, and which events its result covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from sinks.postgres.failures import classified

_LOCK_ID = 0x696D706F7274  # "import"
_COLUMNS = "account, since, started_at, ended_at, covers_until, part, after, counts"
_FIND = f"SELECT {_COLUMNS} FROM billing.imports WHERE account = $1"  # noqa: S608  # only constants
_BEGIN = f"""
INSERT INTO billing.imports (account, since, started_at, part) VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE SET since = excluded.since, started_at = excluded.started_at, ended_at = NULL,
    part = excluded.part, after = NULL, counts = '{{}}', last_error = NULL
RETURNING {_COLUMNS}
"""  # noqa: S608  # as above
_ADVANCE = """
UPDATE billing.imports SET part = $2, after = $3, counts = $4, last_error = NULL WHERE account = $1
"""
_END = """
UPDATE billing.imports SET ended_at = $2, after = NULL, counts = $3, last_error = NULL,
    covers_until = CASE WHEN $4 THEN coalesce(covers_until, started_at) ELSE covers_until END
WHERE account = $1
"""
_FAILED = "UPDATE billing.imports SET last_error = $2 WHERE account = $1"
_COVERED = "SELECT covers_until FROM billing.imports WHERE account = $1"


@dataclass(frozen=True, slots=True)
class ImportRow:
    """The newest import of an account. Times are UTC.

    `since`: settled invoices and refunds created then or later are read. `started_at` is when Stripe answered first.
    `after` is the last object of `part` that was appended, None before its first.
    """

    account: str
    since: datetime
    started_at: datetime
    ended_at: datetime | None
    covers_until: datetime | None
    part: str
    after: str | None
    counts: Mapping[str, int]


class ImportRows:
    """Reads and writes the rows over one session. Every method raises StoreUnavailable. Not for concurrent use."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def take_turn(self) -> bool:
        """Try to get the lock, which is held until the session ends. Returns False if another import holds it."""
        with classified():
            return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_ID))

    async def find(self, account: str) -> ImportRow | None:
        with classified():
            found = await self._connection.fetchrow(_FIND, account)
        return _row(dict(found)) if found is not None else None

    async def begin(self, account: str, since: datetime, now: datetime, part: str) -> ImportRow:
        """Begin an import. What an earlier one covers stays covered until this one ends."""
        with classified():
            found = await self._connection.fetchrow(_BEGIN, account, since, now, part)
        if found is None:
            raise LookupError("INSERT … RETURNING gave no row")
        return _row(dict(found))

    async def advance(self, account: str, part: str, after: str | None, counts: Mapping[str, int]) -> None:
        await self._execute(_ADVANCE, account, part, after, orjson.dumps(dict(counts)).decode())

    async def end(self, account: str, now: datetime, counts: Mapping[str, int], *, covers: bool) -> None:
        """End the import. `covers`: it has read all that earlier events changed.

        What the first one covers stays. A later one covers no more: events arrive since then, and each has to.
        """
        await self._execute(_END, account, now, orjson.dumps(dict(counts)).decode(), covers)

    async def fail(self, account: str, reason: str) -> None:
        """Record why the import stopped. It can be continued."""
        await self._execute(_FAILED, account, reason)

    def close(self) -> None:
        """End the session at once, which releases the lock."""
        self._connection.terminate()

    async def _execute(self, query: str, *arguments: object) -> None:
        with classified():
            await self._connection.execute(query, *arguments)


async def covered_until(connection: asyncpg.Connection[asyncpg.Record], account: str) -> datetime | None:
    """Return the time before which events of the account need not arrive if an import reads what they changed.

    That is the begin of the first import that left nothing out, None without one. Raises StoreUnavailable.
    """
    with classified():
        found: datetime | None = await connection.fetchval(_COVERED, account)
    return found


def _row(found: Mapping[str, Any]) -> ImportRow:
    return ImportRow(**{**found, "counts": orjson.loads(found["counts"])})
