"""Stores what people did in the console, and the progress of its jobs. Methods raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from sinks.postgres.audit_log import AuditEntry, Outcome, complete_in, record_in, without_addresses
from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import console_actions

SEEN_WITHIN = timedelta(seconds=30)
"""A job that was not seen for this long has lost its process."""


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

    def __init__(self, url: SecretStr) -> None:
        bounds = SessionTimeouts(statement_s=10.0, lock_s=3.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application="billing-console", bounds=bounds)

    async def begin(
        self,
        key: str,
        who: str,
        role: str,
        action: str,
        *,
        target: str,
        filter: Mapping[str, Any],
        reason: str | None,
        peer: str | None = None,
        total: int | None = None,
        is_job: bool = False,
    ) -> bool:
        """Stores that an action begins. Returns False if this key has a record already.

        A job works outside this database, so its row of the audit log is begun here and completed by `end`. Other
        actions write theirs in their own transaction.
        """
        row = insert(console_actions).values(
            action_key=key, who=who, role=role, action=action, target=without_addresses(target), filter=dict(filter),
            reason=reason and without_addresses(reason), total=total, seen_at=func.now(),
        )  # fmt: skip
        entry = AuditEntry(
            who=who, role=role, action=f"console.{action}", target=target, filter=filter, reason=reason, peer=peer,
            outcome=Outcome.BEGUN,
        )  # fmt: skip
        c = console_actions.c
        with classified():
            async with self._engine.begin() as connection:
                done = await connection.execute(row.on_conflict_do_nothing().returning(c.action_key))
                if done.one_or_none() is None:
                    return False
                if not is_job:
                    return True
                entry_id = await record_in(connection, entry)
                await connection.execute(
                    update(console_actions).where(c.action_key == key).values(audit_entry=entry_id)
                )
                return True

    async def end(
        self,
        key: str,
        status: str,
        result: Mapping[str, Any],
        *,
        count: int | None = None,
        note: str | None = None,
    ) -> None:
        """Stores how an action ended, and completes a job's row of the audit log. `count` is what it changed."""
        c = console_actions.c
        values = {"status": status, "result": dict(result), "note": note, "ended_at": func.now()}
        changed = update(console_actions).where(c.action_key == key).values(values).returning(c.audit_entry)
        outcome = Outcome.FAILED if status == "failed" else Outcome.DONE
        with classified():
            async with self._engine.begin() as connection:
                entry_id = (await connection.execute(changed)).scalar_one_or_none()
                if entry_id is not None:
                    await complete_in(connection, entry_id, outcome, count=count, reason=note)

    async def note(self, entry: AuditEntry) -> None:
        """Writes a row of the audit log for something without a result page: a sign-in, a reveal."""
        with classified():
            async with self._engine.begin() as connection:
                await record_in(connection, entry)

    async def advance(self, key: str, done: int, result: Mapping[str, Any], *, note: str | None = None) -> str:
        """Stores the progress of a job and returns what is wanted of it: run, pause or stop."""
        await self._set(key, done=done, result=dict(result), note=note, seen_at=func.now())
        found = await self.find(key)
        return found.wanted if found is not None else "stop"

    async def rest(self, key: str, status: str) -> None:
        """Stores that a job is paused or runs again."""
        await self._set(key, status=status, seen_at=func.now())

    async def want(self, key: str, wanted: str) -> bool:
        """Asks a job to run, pause or stop. Returns False if it has ended."""
        c = console_actions.c
        statement = update(console_actions).where(c.action_key == key, c.ended_at.is_(None)).values(wanted=wanted)
        with classified():
            async with self._engine.begin() as connection:
                return (await connection.execute(statement)).rowcount > 0

    async def take(self, key: str) -> bool:
        """Takes over a job whose process is gone. Returns False if another process has seen it lately, or it ended."""
        c = console_actions.c
        is_lost = c.ended_at.is_(None) & (c.seen_at < func.now() - SEEN_WITHIN)
        statement = update(console_actions).where(c.action_key == key, is_lost).values(seen_at=func.now())
        with classified():
            async with self._engine.begin() as connection:
                return (await connection.execute(statement)).rowcount > 0

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

    async def open_jobs(self, action: str) -> list[Performed]:
        """Returns the jobs of this action that have not ended, the oldest first."""
        c = console_actions.c
        return await self._all(
            select(console_actions).where(c.action == action, c.ended_at.is_(None)).order_by(c.at).limit(100)
        )

    async def _set(self, key: str, **values: Any) -> None:
        statement = update(console_actions).where(console_actions.c.action_key == key).values(**values)
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(statement)

    async def _all(self, query: Select[Any]) -> list[Performed]:
        with classified():
            async with self._engine.connect() as connection:
                result = await connection.execute(query)
        return [Performed(**{field.name: row[field.name] for field in fields(Performed)}) for row in result.mappings()]
