"""Stores which consumer groups are stopped because too many events died (streams/brake.py), and how they were released.

A brake applies to the code version that it stopped. Another version, once deployed, may continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from sinks.postgres.audit_log import AuditEntry, record_in
from sinks.postgres.failures import classified
from sinks.postgres.pool import make_engine
from sinks.postgres.tables import brakes


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBrake:
    """One group's last stop. `let_die` is how many more dead events its release still allows. Times are UTC."""

    consumer_group: str
    tripped_at: datetime
    message: str
    reasons: tuple[str, ...]
    code_version: str
    released_at: datetime | None
    released_by: str | None
    let_die: int
    passed_by: str | None = None
    passed_at: datetime | None = None
    """The first other code version that ran since, and when. The stopped version stays held."""

    def holds(self, code_version: str) -> bool:
        return self.released_at is None and self.code_version == code_version


class Brakes:
    """Reads and writes the brakes. Opens a connection per call, as calls are rare. Methods raise StoreUnavailable."""

    def __init__(self, url: SecretStr, *, application: str = "billing-brakes") -> None:
        self._engine = make_engine(url, application=application)

    async def trip(self, group: str, message: str, reasons: Sequence[str], code_version: str) -> None:
        """Stops the group. If it is already stopped at this code version, the stored reason is kept."""
        values: dict[str, Any] = {
            "tripped_at": func.now(),
            "message": message,
            "reasons": list(reasons),
            "code_version": code_version,
            "released_at": None,
            "released_by": None,
            "let_die": 0,
            "passed_by": None,
            "passed_at": None,
        }
        statement = insert(brakes).values(consumer_group=group, **values)
        is_over = brakes.c.released_at.is_not(None) | (brakes.c.code_version != code_version)
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(
                    statement.on_conflict_do_update(index_elements=["consumer_group"], set_=values, where=is_over)
                )

    async def pass_by(self, group: str, code_version: str) -> None:
        """Records that another code version than the stopped one runs in this group."""
        c = brakes.c
        is_passed = (c.consumer_group == group) & (c.code_version != code_version) & c.released_at.is_(None)
        statement = update(brakes).where(is_passed, c.passed_at.is_(None))
        with classified():
            async with self._engine.begin() as connection:
                await connection.execute(statement.values(passed_by=code_version, passed_at=func.now()))

    async def last(self, group: str) -> HeldBrake | None:
        """Returns the group's last stop, released or not, or None if it never stopped."""
        found = await self._select(group)
        return found[0] if found else None

    async def all(self) -> list[HeldBrake]:
        """Returns the last stop of every group that ever stopped, the latest first."""
        return await self._select(None)

    async def release(self, group: str, by: str, *, let_die: int, entry: AuditEntry | None = None) -> bool:
        """Releases the group, and records `entry` with it. Returns False if it was not stopped."""
        statement = (
            update(brakes)
            .where(brakes.c.consumer_group == group, brakes.c.released_at.is_(None))
            .values(released_at=func.now(), released_by=by, let_die=let_die)
        )
        with classified():
            async with self._engine.begin() as connection:
                is_released = (await connection.execute(statement)).rowcount > 0
                if is_released and entry is not None:
                    await record_in(connection, replace(entry, count=1))
                return is_released

    async def take_allowance(self, group: str) -> int:
        """Returns how many dead events the last release allows, and resets it, so that a restart does not renew it."""
        is_of_group = brakes.c.consumer_group == group
        with classified():
            async with self._engine.begin() as connection:
                allowed = await connection.scalar(select(brakes.c.let_die).where(is_of_group).with_for_update())
                if allowed:
                    await connection.execute(update(brakes).where(is_of_group).values(let_die=0))
                return allowed or 0

    async def _select(self, group: str | None) -> list[HeldBrake]:
        query = select(brakes).order_by(brakes.c.tripped_at.desc())
        if group is not None:
            query = query.where(brakes.c.consumer_group == group)
        with classified():
            async with self._engine.connect() as connection:
                return [_held(row) for row in await connection.execute(query)]


def _held(row: Row[Any]) -> HeldBrake:
    values = dict(row._mapping)
    return HeldBrake(**values | {"reasons": tuple(values["reasons"])})
