"""Records who did what to which data: commands, the console and schedules write a row in their own transaction.

An action in Postgres is recorded in its transaction, so that a rolled back action leaves no row. An action elsewhere,
such as a replay into Kafka, is recorded as `begun` before it starts and completed after it.

    async with connection.transaction():
        keys = await connection.fetch(…)
        await audit_log.record(connection, AuditEntry(who=by, action="mail.requeue", count=len(keys)))

The log outlives erasures. So addresses are replaced by the digest that identifies a guest, wherever an operator or a
filter names one: in `target`, `filter` and `reason`, and not in `who`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.ordering import guest_key
from sinks.postgres import tables

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_LONGEST_TEXT = 2000
_LONGEST_FILTER = 20_000
"""Characters kept of a text and of a filter, so that a command line with thousands of ids makes no huge row."""

_AT = "[@\uff20\ufe6b]"
"""Also in full width, and small."""
_ENCODED_AT = re.compile(
    r"%(?:25)*(?:40|EF%(?:25)*(?:BC%(?:25)*A0|B9%(?:25)*AB))"
    r"|\\{1,8}(?:x40|u(?:0040|\{0{0,4}40\}|ff20|fe6b))|&(?:amp;)*(?:#0*64|#x0*40|commat);?",
    re.IGNORECASE,
)
"""As in the address of a page, in JSON, and in HTML, encoded once or more often."""
_OUTSIDE = '\\s@\uff20\ufe6b<>"(),;:'
_ADDRESS = re.compile(f'(?:"[^"\\n]{{1,64}}"|[^{_OUTSIDE}\'][^{_OUTSIDE}]{{0,254}}){_AT}{{1,9}}[^{_OUTSIDE}\']+')
"""The part before the @ may be quoted, and may have an apostrophe, as in o'brien@example.com. Its length is bounded
because a search without a bound takes time with the square of the text's length."""

_INSERT = """
INSERT INTO billing.audit_log (who, role, action, target, filter, count, outcome, reason, peer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING entry_id
"""


class ActorRole(StrEnum):
    """In which capacity somebody acted. The console adds the roles of its users as they are (a plain text)."""

    CLI = "cli"
    SCHEDULE = "schedule"


class ActionOutcome(StrEnum):
    """How an action ended. One that is still `begun` was killed, or is running."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One action. `action` is COMMAND.VERB, as in `dead.replay`; `target` the id it was about, '' for a filter."""

    who: str
    """The operator, or the name of the schedule."""
    action: str
    role: str = ActorRole.CLI
    target: str = ""
    filter: Mapping[str, Any] = field(default_factory=dict)
    """What selected the rows, by option; values that JSON can hold, dates as text."""
    count: int | None = None
    """How many rows, events or objects it changed; None if that is not known yet."""
    outcome: ActionOutcome = ActionOutcome.DONE
    reason: str | None = None
    """Why, in the operator's words. Why it failed follows after a semicolon."""
    peer: str | None = None
    """The network address of a console's user."""

    def values(self) -> dict[str, Any]:
        """Returns the columns and their values, without addresses; `filter` as plain JSON values."""
        return {
            "who": _storable(self.who)[:_LONGEST_TEXT],
            "role": str(self.role),
            "action": self.action,
            "target": without_addresses(self.target)[:_LONGEST_TEXT],
            "filter": _bounded(self.filter),
            "count": self.count,
            "outcome": str(self.outcome),
            "reason": None if self.reason is None else without_addresses(self.reason)[:_LONGEST_TEXT],
            "peer": self.peer,
        }


async def record(connection: Connection, entry: AuditEntry) -> int:
    """Writes the entry in the connection's transaction. Returns its id. Raises the driver's errors."""
    values = entry.values()
    values["filter"] = orjson.dumps(values["filter"]).decode()
    entry_id: int = await connection.fetchval(_INSERT, *values.values())
    return entry_id


async def record_in(connection: AsyncConnection, entry: AuditEntry) -> int:
    """Does the same as `record` on a connection of SQLAlchemy, in its transaction."""
    table = tables.audit_log
    written = await connection.execute(insert(table).values(entry.values()).returning(table.c.entry_id))
    entry_id: int = written.scalar_one()
    return entry_id


async def complete_in(
    connection: AsyncConnection,
    entry_id: int,
    outcome: ActionOutcome,
    *,
    count: int | None = None,
    note: str | None = None,
) -> None:
    """Sets how an action that was recorded as `begun` ended. `note` says why it failed, after the operator's reason.

    Raises the driver's errors.
    """
    c = tables.audit_log.c
    values: dict[str, Any] = {"outcome": str(outcome), "count": count}
    if note:
        values["reason"] = func.concat_ws("; ", func.nullif(c.reason, ""), without_addresses(note)[:_LONGEST_TEXT])
    await connection.execute(update(tables.audit_log).where(c.entry_id == entry_id).values(values))


async def complete_begun_in(
    connection: AsyncConnection, entry_id: int, outcome: ActionOutcome, *, count: int, note: str
) -> None:
    """Does the same as `complete_in`, unless it is stored already how the action ended."""
    c = tables.audit_log.c
    is_open = select(c.entry_id).where(c.entry_id == entry_id, c.outcome == str(ActionOutcome.BEGUN)).with_for_update()
    if (await connection.execute(is_open)).one_or_none() is not None:
        await complete_in(connection, entry_id, outcome, count=count, note=note)


def without_addresses(text: str) -> str:
    """Returns the text with each e-mail address replaced by its digest, and with what Postgres refuses replaced."""
    stored = _storable(text)
    plain = _ENCODED_AT.sub("@", stored)
    replaced = _ADDRESS.sub(lambda found: guest_key(re.sub(_AT, "@", found[0])), plain)
    return stored if replaced == plain else replaced


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _bounded(chosen: Mapping[str, Any]) -> Any:
    """Returns the filter without options that were not given."""
    given = {name: value for name, value in chosen.items() if value is not False and value not in (None, "", (), [])}
    text = orjson.dumps(cleaned(given), default=str).decode()
    return orjson.loads(text) if len(text) <= _LONGEST_FILTER else {"cut": text[:_LONGEST_FILTER]}


def cleaned(value: Any) -> Any:
    """Returns a JSON value with the addresses in its texts and keys replaced."""
    match value:
        case str():
            return without_addresses(value)
        case Mapping():
            return {without_addresses(str(name)): cleaned(each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [cleaned(each) for each in value]
    return value
