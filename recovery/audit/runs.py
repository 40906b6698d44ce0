"""The rows of the runs: `billing.audits`, what they found, and the objects that Stripe listed.

What a page adds and the position after it are stored in one transaction, so a run that is killed repeats one page at
most, and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from recovery.audit.compare import AuditedMoney
from recovery.audit.differences import AuditDifference, Cause, Kind
from sinks.postgres.failures import classified

LOCK_ID = 0x6175646974  # "audit"
KEPT_DAYS = 90
"""How long runs are kept."""

_COLUMNS = "run_id, account, scope, window_from, window_until, phase, cursor, counts"
_OPEN = f"""
SELECT {_COLUMNS} FROM billing.audits
WHERE account = $1 AND scope = $2 AND ended_at IS NULL AND started_at >= $3 ORDER BY run_id DESC LIMIT 1
"""  # noqa: S608  # only constants
_BEGIN = f"""
INSERT INTO billing.audits (account, scope, window_from, window_until, started_at, phase)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_COLUMNS}
"""  # noqa: S608  # as above
_ADVANCE = "UPDATE billing.audits SET phase = $2, cursor = $3, counts = $4, last_error = NULL WHERE run_id = $1"
_END = """
UPDATE billing.audits SET ended_at = $2, totals = $3,
    differences = (SELECT count(*) FROM billing.audit_differences d WHERE d.run_id = $1) WHERE run_id = $1
"""
_FAILED = "UPDATE billing.audits SET last_error = $2 WHERE run_id = $1"
_ABANDONED = "UPDATE billing.audits SET last_error = coalesce($2, last_error) WHERE scope = $1 AND ended_at IS NULL"
_FORGET_SCOPE = """
DELETE FROM billing.audit_objects o USING billing.audits a
WHERE o.run_id = a.run_id AND a.scope = $1 AND a.ended_at IS NULL
"""
_FORGET = (
    "DELETE FROM billing.audit_objects WHERE run_id = $1",
    "DELETE FROM billing.audit_objects o USING billing.audits a WHERE o.run_id = a.run_id AND a.started_at < $2",
    "DELETE FROM billing.audit_differences d USING billing.audits a WHERE d.run_id = a.run_id AND a.started_at < $2",
    "DELETE FROM billing.audits WHERE started_at < $2",
)
_PUT = """
INSERT INTO billing.audit_differences (run_id, kind, object_id, subject, cause, repair, fields)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (run_id, kind, object_id) DO UPDATE
SET subject = excluded.subject, cause = excluded.cause, repair = excluded.repair, fields = excluded.fields
"""
_DROP = "DELETE FROM billing.audit_differences WHERE run_id = $1 AND kind = $2 AND object_id = ANY($3::text[])"
_SEEN = """
INSERT INTO billing.audit_objects (run_id, kind, object_id, day, currency, amount, ours)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (run_id, kind, object_id) DO UPDATE
SET day = excluded.day, currency = excluded.currency, amount = excluded.amount, ours = excluded.ours
"""
_DIFFERENCES = """
SELECT kind, object_id, subject, cause, repair, fields FROM billing.audit_differences
WHERE run_id = $1 AND (kind, object_id) > ($2, $3) ORDER BY kind, object_id LIMIT $4
"""
_OF_OBJECTS = """
SELECT kind, object_id, subject, cause, repair, fields FROM billing.audit_differences
WHERE run_id = $1 AND kind = $2 AND object_id = ANY($3::text[])
"""
_OF_SUBJECT = """
SELECT cause, object_id, repair FROM billing.audit_differences
WHERE run_id = $1 AND kind = 'event' AND subject = ANY($2::text[]) ORDER BY object_id DESC LIMIT 1
"""


@dataclass(slots=True)
class AuditRun:
    """One row of `billing.audits`. Times are UTC."""

    run_id: int
    account: str
    scope: str
    window_from: datetime
    window_until: datetime
    phase: str
    cursor: str
    counts: dict[str, int]


@dataclass(slots=True)
class PageFindings:
    """What one page adds to a run."""

    differences: list[AuditDifference] = field(default_factory=list)
    agreeing: list[tuple[Kind, str]] = field(default_factory=list)
    """What differed before and does not differ any more."""
    seen: list[tuple[Kind, str, AuditedMoney | None]] = field(default_factory=list)


class AuditRuns:
    """The tables of runs. Every method raises StoreUnavailable if Postgres does not answer. Not for concurrent use.

    `advanced` is called after each `advance`: an interrupted run does not repeat what it did before.
    """

    def __init__(
        self, connection: asyncpg.Connection[asyncpg.Record], advanced: Callable[[], None] = lambda: None
    ) -> None:
        self._connection = connection
        self._advanced = advanced

    async def take_turn(self) -> bool:
        """Try to get the lock, which is held until the session ends. Returns False if another run holds it."""
        with classified():
            return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_ID))

    async def interrupted(self, account: str, scope: str, since: datetime) -> AuditRun | None:
        """Return the newest unfinished run of this account and scope that began at `since` or later."""
        with classified():
            found = await self._connection.fetchrow(_OPEN, account, scope, since)
        return _run(found) if found is not None else None

    async def begin(
        self, account: str, scope: str, start: datetime, end: datetime, now: datetime, phase: str
    ) -> AuditRun:
        with classified():
            found = await self._connection.fetchrow(_BEGIN, account, scope, start, end, now, phase)
        if found is None:
            raise LookupError("INSERT … RETURNING gave no row")
        return _run(found)

    async def advance(self, run: AuditRun, findings: PageFindings) -> None:
        """Store what a page added, and the run's phase, cursor and counts."""
        with classified():
            async with self._connection.transaction():
                await self._connection.executemany(
                    _PUT,
                    [
                        (run.run_id, one.kind, one.id, one.subject, one.cause, one.repair, _json(one.fields))
                        for one in findings.differences
                    ],
                )
                for kind in {kind for kind, _ in findings.agreeing}:
                    ids = [id_ for one, id_ in findings.agreeing if one is kind]
                    await self._connection.execute(_DROP, run.run_id, kind, ids)
                await self._connection.executemany(
                    _SEEN,
                    [
                        (run.run_id, kind, id_, *((one.day, one.currency, one.amount, one.ours) if one else [None] * 4))
                        for kind, id_, one in findings.seen
                    ],
                )
                await self._connection.execute(_ADVANCE, run.run_id, run.phase, run.cursor, _json(run.counts))
        self._advanced()

    async def differences(
        self, run: AuditRun, after: tuple[str, str] = ("", ""), most: int = 100
    ) -> list[AuditDifference]:
        """Return differences in the order of kind and id, after the given one."""
        with classified():
            found = await self._connection.fetch(_DIFFERENCES, run.run_id, *after, most)
        return [_difference(row) for row in found]

    async def of_objects(self, run: AuditRun, kind: Kind, ids: Sequence[str]) -> list[AuditDifference]:
        """Return the differences of these objects."""
        with classified():
            found = await self._connection.fetch(_OF_OBJECTS, run.run_id, kind, list(ids))
        return [_difference(row) for row in found]

    async def count(self, run: AuditRun) -> int:
        with classified():
            query = "SELECT count(*) FROM billing.audit_differences WHERE run_id = $1"
            return int(await self._connection.fetchval(query, run.run_id))

    async def kinds(self, run: AuditRun) -> set[str]:
        """Return the kinds of which something differs."""
        with classified():
            query = "SELECT DISTINCT kind FROM billing.audit_differences WHERE run_id = $1"
            return {row["kind"] for row in await self._connection.fetch(query, run.run_id)}

    async def event_difference(self, run: AuditRun, subjects: Sequence[str]) -> tuple[Cause, str] | None:
        """Return the cause and the repair of an event about one of these objects that differs, None if none does."""
        with classified():
            found = await self._connection.fetchrow(_OF_SUBJECT, run.run_id, list(subjects))
        return (Cause(found["cause"]), found["repair"]) if found is not None else None

    async def end(
        self, run: AuditRun, now: datetime, totals: Sequence[Mapping[str, Any]], forget_before: datetime
    ) -> None:
        """Store the result, and delete the runs before `forget_before`."""
        with classified():
            async with self._connection.transaction():
                await self._connection.execute(_END, run.run_id, now, orjson.dumps({"days": list(totals)}).decode())
                await self._connection.execute(_FORGET[0], run.run_id)
                for statement in _FORGET[1:]:
                    await self._connection.execute(statement.replace("$2", "$1"), forget_before)

    async def abandon(self, scope: str, reason: str | None) -> None:
        """Delete what the unfinished runs of a scope have listed, and record the reason unless it is None."""
        with classified():
            async with self._connection.transaction():
                await self._connection.execute(_FORGET_SCOPE, scope)
                await self._connection.execute(_ABANDONED, scope, reason)

    async def fail(self, run: AuditRun, reason: str) -> None:
        """Record the reason of a failure. The run stays open and can be resumed."""
        with classified():
            await self._connection.execute(_FAILED, run.run_id, reason)


def _difference(row: asyncpg.Record) -> AuditDifference:
    kind, cause = Kind(row["kind"]), Cause(row["cause"])
    return AuditDifference(kind, row["object_id"], orjson.loads(row["fields"]), cause, row["subject"], row["repair"])


def _run(found: asyncpg.Record) -> AuditRun:
    return AuditRun(**{**dict(found), "counts": orjson.loads(found["counts"])})


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
