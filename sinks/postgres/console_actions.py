"""Stores what people did in the console, and the progress of its jobs. Methods raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Select, Update, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import BillingError
from sinks.postgres.audit_log import (
    ActionOutcome,
    AuditEntry,
    cleaned,
    complete_begun_in,
    complete_in,
    record_in,
    without_addresses,
)
from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import console_actions

SEEN_WITHIN = timedelta(seconds=30)
"""A job that was not seen for this long has lost its process."""


_ASKING = 0x61736B6564  # "asked"
"""The lock under which a job begins that may be the only one of its target."""


class OpenJob(BillingError):
    """A job of this kind has not ended yet. `key` is that job's."""

    def __init__(self, target: str, key: str) -> None:
        super().__init__(f"A job of this kind ({target}) is open already. Wait until it ends, or stop it.")
        self.key = key


class JobLost(BillingError):
    """The job has ended, or another console works on it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What makes an action a job: its owner, unique to one run in one process, and the number of things to do.

    Without an owner it waits for a process that takes it.
    """

    owner: str | None
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """One action. `status`: running, paused, stopped, done, failed. `wanted`: run, pause, stop. Times are UTC."""

    action_key: str
    at: datetime
    who: str
    role: str
    action: str
    target: str
    filter: Mapping[str, Any]
    reason: str | None
    status: str
    wanted: str
    total: int | None
    done: int
    result: Mapping[str, Any]
    note: str | None
    seen_at: datetime | None
    ended_at: datetime | None


class ConsoleActions:
    """Reads and writes the records. Opens a connection per call."""

    def __init__(self, url: SecretStr, *, application: str = "billing-console") -> None:
        bounds = SessionTimeouts(statement_s=10.0, lock_s=3.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application=application, bounds=bounds)

    async def begin(self, key: str, entry: AuditEntry, *, job: Job | None = None, is_only: bool = False) -> bool:
        """Stores that an action begins. Returns False if this key has a record already.

        With `is_only`, raises OpenJob if a job with the same target is open.

        A job works outside this database, so its row of the audit log is begun here and completed by `end`. Other
        actions write theirs in their own transaction.
        """
        columns = entry.values()
        row = insert(console_actions).values(
            **{name: columns[name] for name in ("who", "role", "target", "filter", "reason")},
            action_key=key, action=entry.action.removeprefix("console."),
            seen_at=None if job is not None and job.owner is None else func.now(),
            total=job and job.total, owner=job and job.owner,
        )  # fmt: skip
        c = console_actions.c
        with classified():
            async with self._engine.begin() as connection:
                if is_only:
                    await connection.execute(select(func.pg_advisory_xact_lock(_ASKING)))
                done = await connection.execute(row.on_conflict_do_nothing().returning(c.action_key))
                if done.one_or_none() is None:
                    return False
                if is_only and (other := await _open_job(connection, columns["target"], key)) is not None:
                    raise OpenJob(columns["target"], other)
                if job is None:
                    return True
                entry_id = await record_in(connection, replace(entry, outcome=ActionOutcome.BEGUN))
                await connection.execute(
                    update(console_actions).where(c.action_key == key).values(audit_entry=entry_id)
                )
                return True

    async def end(self, key: str, status: str, result: Mapping[str, Any]) -> None:
        """Stores how an action ended that is not a job. An action that has ended stays as it is."""
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(_ended(key, status, result, None))

    async def fail(self, key: str, entry: AuditEntry, note: str, begun: int | None = None) -> None:
        """Stores that an action failed that is not a job, and records `entry` as failed in the same transaction.

        `begun` is the row of the audit log that the work itself has begun: that row is completed instead, if the work
        could not do so.
        """
        failed = replace(entry, outcome=ActionOutcome.FAILED, reason="; ".join(filter(None, (entry.reason, note))))
        with classified():
            async with self._engine.begin() as connection:
                if not (await connection.execute(_ended(key, "failed", {}, note))).rowcount:
                    return
                if begun is None:
                    await record_in(connection, failed)
                else:
                    await complete_begun_in(connection, begun, ActionOutcome.FAILED, count=0, note=note)

    async def end_lost(self, after: timedelta, note: str) -> int:
        """Ends actions that are not jobs and began so long ago, as failed. Returns how many."""
        c = console_actions.c
        is_lost = c.ended_at.is_(None) & c.audit_entry.is_(None) & (c.at < func.now() - after)
        statement = update(console_actions).where(is_lost).values(status="failed", note=note, ended_at=func.now())
        with classified():
            async with self._engine.begin() as connection:
                return (await connection.execute(statement)).rowcount

    async def end_job(
        self, key: str, owner: str, status: str, result: Mapping[str, Any], *, count: int, note: str | None = None
    ) -> None:
        """Stores how a job ended, and completes its row of the audit log. Raises JobLost."""
        c = console_actions.c
        changed = _ended(key, status, result, note).where(c.owner == owner).returning(c.audit_entry)
        outcome = ActionOutcome.FAILED if status == "failed" else ActionOutcome.DONE
        with classified():
            async with self._engine.begin() as connection:
                found = (await connection.execute(changed)).one_or_none()
                if found is None:
                    raise JobLost(key)
                await complete_in(connection, found.audit_entry, outcome, count=count, note=note)

    async def note(self, entry: AuditEntry) -> None:
        """Writes a row of the audit log for something without a result page: a sign-in, a reveal."""
        with classified():
            async with self._engine.begin() as connection:
                await record_in(connection, entry)

    async def advance(
        self, key: str, owner: str, done: int, result: Mapping[str, Any], *, note: str | None = None
    ) -> str:
        """Stores the progress of a job and returns what is wanted of it: run, pause or stop. Raises JobLost."""
        return await self._set(key, owner, done=done, result=_stored(result), note=_cleaned_note(note))

    async def rest(self, key: str, owner: str, status: str) -> None:
        """Stores that a job is paused or runs again. Raises JobLost."""
        await self._set(key, owner, status=status)

    async def beat(self, key: str, owner: str) -> str:
        """Stores that the job's process works on it, and returns what is wanted of it. Raises JobLost."""
        return await self._set(key, owner)

    async def want(self, key: str, wanted: str, entry: AuditEntry) -> bool:
        """Asks a job to run, pause or stop, and records that. Returns False if it is not a job or has ended."""
        c = console_actions.c
        is_open_job = (c.action_key == key) & c.audit_entry.is_not(None) & c.ended_at.is_(None)
        statement = update(console_actions).where(is_open_job).values(wanted=wanted)
        with classified():
            async with self._engine.begin() as connection:
                if not (await connection.execute(statement)).rowcount:
                    return False
                await record_in(connection, entry)
                return True

    async def take(self, key: str, owner: str) -> bool:
        """Makes `owner` the owner of a job that no process has, or whose process is gone.

        Returns False if its owner was seen lately, or the job has ended.
        """
        c = console_actions.c
        is_lost = c.ended_at.is_(None) & (c.seen_at.is_(None) | (c.seen_at < func.now() - SEEN_WITHIN))
        statement = update(console_actions).where(c.action_key == key, is_lost)
        with classified():
            async with self._engine.begin() as connection:
                return (await connection.execute(statement.values(seen_at=func.now(), owner=owner))).rowcount > 0

    async def find(self, key: str) -> Performed | None:
        """Returns one record, None if there is none."""
        found = await self._all(select(console_actions).where(console_actions.c.action_key == key))
        return found[0] if found else None

    async def latest(self, *, before: datetime | None = None, most: int = 50) -> list[Performed]:
        """Returns records, the newest first."""
        query = select(console_actions).order_by(console_actions.c.at.desc()).limit(most)
        if before is not None:
            query = query.where(console_actions.c.at < before)
        return await self._all(query)

    async def open_jobs(self, *actions: str) -> list[Performed]:
        """Returns the jobs of these actions that have not ended, the oldest first."""
        c = console_actions.c
        return await self._all(
            select(console_actions).where(c.action.in_(actions), c.ended_at.is_(None)).order_by(c.at).limit(100)
        )

    async def _set(self, key: str, owner: str, **values: Any) -> str:
        c = console_actions.c
        is_mine = (c.action_key == key) & (c.owner == owner) & c.ended_at.is_(None)
        statement = update(console_actions).where(is_mine).values(**values, seen_at=func.now()).returning(c.wanted)
        with classified():
            async with self._engine.begin() as connection:
                wanted: str | None = (await connection.execute(statement)).scalar_one_or_none()
        if wanted is None:
            raise JobLost(key)
        return wanted

    async def _all(self, query: Select[Any]) -> list[Performed]:
        with classified():
            async with self._engine.connect() as connection:
                result = await connection.execute(query)
        return [Performed(**{field.name: row[field.name] for field in fields(Performed)}) for row in result.mappings()]


async def _open_job(connection: AsyncConnection, target: str, but: str) -> str | None:
    """Returns the key of the oldest job of the target that has not ended, except one."""
    c = console_actions.c
    is_open = (c.target == target) & c.audit_entry.is_not(None) & c.ended_at.is_(None) & (c.action_key != but)
    found: str | None = await connection.scalar(select(c.action_key).where(is_open).order_by(c.at).limit(1))
    return found


def _ended(key: str, status: str, result: Mapping[str, Any], note: str | None) -> Update:
    c = console_actions.c
    values = {"status": status, "result": _stored(result), "note": _cleaned_note(note), "ended_at": func.now()}
    return update(console_actions).where(c.action_key == key, c.ended_at.is_(None)).values(values)


def _stored(result: Mapping[str, Any]) -> dict[str, Any]:
    """The records outlive erasures, so they contain no address."""
    return {name: cleaned(value) for name, value in result.items()}


def _cleaned_note(note: str | None) -> str | None:
    return None if note is None else without_addresses(note)
