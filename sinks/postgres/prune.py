"""Ends what only grows: payloads after a time, contents of settled outbox rows, closed letters and old runs.

Rows that make something happen once keep their keys: a ledger row, a mail, a timer, a call. Only their contents end.
Before a payload goes, the objects that it names are noted with their customer (ownership.py), so that an export and an
erasure still find everything. With an archive (sinks/payloads/) the payload is durable there before its batch is
committed, and its key is in the ledger; a payload that cannot be archived stays, and all else is pruned. Each batch is
a short transaction that waits for no lock; between two batches the server rests as long as the batch took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Protocol

import asyncpg

from schemas.payloads import ArchiveAway, KeptPayload
from schemas.settings import InvalidSettings
from schemas.verdict import SETTLED
from sinks.postgres.failures import classified
from sinks.postgres.ownership import FORGET_GUESTS, FORGET_GUESTS_UNLESS_ARCHIVED, KEEP_OWNERS_OF_EVENTS
from sinks.postgres.positions import identity

ACTION = "prune"
"""The action in the audit log."""
BATCH = 1000
SLICE_BYTES, _READ_AT_ONCE = 8 * 1024 * 1024, 8
"""Payloads that are archived at once end at this size; the last ones that are read may exceed it by a few bodies."""

_SETTLED = ", ".join(f"'{outcome}'" for outcome in SETTLED)
# Not as NOT EXISTS: for that, Postgres reads all dead letters at each batch.
_LACKS_LETTER = (
    "(SELECT count(*) FROM billing.dead_letters d WHERE d.event_id = t.event_id AND d.status IN ('open', 'replayed')) "
    "= 0"
)


class Archive(Protocol):
    """What pruning needs of the archive of payloads (sinks/payloads/archive.py)."""

    @property
    def is_on(self) -> bool: ...
    async def keep(self, home: str, day: date, payloads: Sequence[tuple[str, str]]) -> Sequence[KeptPayload]: ...
    async def take_back(self, kept: Sequence[KeptPayload]) -> None: ...
    async def delete_before(self, home: str, day: date) -> int: ...


class Age(StrEnum):
    """Which of the ages of `[retention]` applies."""

    CONTENTS = "contents"
    ARCHIVED = "archived"
    RECORDS = "records"


@dataclass(frozen=True, slots=True)
class PruneStep:
    """What is pruned in one table, the oldest first. `where` names the table as `t`; $1 is the age (an interval).

    `order` is the column that ages. With what `where` says about the contents it is an index of its own wherever rows
    stay, so that a batch does not read what earlier ones have pruned.
    """

    name: str
    table: str
    age: Age
    order: str
    where: str
    work: tuple[str, ...]
    """Statements on the rows of a batch. $1 has the values of `key`."""
    key: str = "ctid"
    is_archived: bool = False
    """Whether the payloads of a batch are put into the archive first, if there is one."""

    @property
    def count(self) -> str:
        """The SQL of the number of rows that are due."""
        return f"SELECT count(*) FROM billing.{self.table} t WHERE {self.where}"  # noqa: S608  # only constants from code

    @property
    def batch(self) -> str:
        """The SQL of the keys of one batch. Rows that another transaction has locked wait for the next run."""
        return (
            f"SELECT t.{self.key}::text FROM billing.{self.table} t WHERE {self.where} "  # noqa: S608  # only constants from code
            f"ORDER BY t.{self.order} LIMIT {BATCH} FOR UPDATE OF t SKIP LOCKED"
        )


def _delete(table: str) -> tuple[str, ...]:
    return (f"DELETE FROM billing.{table} WHERE ctid = ANY($1::text[]::tid[])",)  # noqa: S608  # only constants from code


STEPS: tuple[PruneStep, ...] = (
    PruneStep(
        name="payloads",
        table="events",
        age=Age.CONTENTS,
        order="applied_at",
        where=(
            "t.payload IS NOT NULL AND t.applied_at < now() - $1::interval AND "
            f"(t.outcome IN ({_SETTLED}) OR (t.outcome = 'dead' AND {_LACKS_LETTER}))"
        ),
        work=(
            KEEP_OWNERS_OF_EVENTS,
            "UPDATE billing.events SET payload = NULL, changes = NULL, payload_pruned_at = now() "
            "WHERE event_id = ANY($1::text[])",
            FORGET_GUESTS_UNLESS_ARCHIVED,
        ),
        key="event_id",
        is_archived=True,
    ),
    PruneStep(
        name="archived payloads",
        table="events",
        age=Age.ARCHIVED,
        order="payload_pruned_at",
        # A payload that was stored again is not in the archive only, and its age starts again.
        where="t.payload_key IS NOT NULL AND t.payload IS NULL AND t.payload_pruned_at < now() - $1::interval",
        work=(
            "UPDATE billing.events SET payload_key = NULL, payload_place = NULL WHERE event_id = ANY($1::text[])",
            FORGET_GUESTS,
        ),
        key="event_id",
    ),
    # A mail without a customer is one to a guest or to the operators. A failed one is not sent so long afterwards.
    PruneStep(
        name="contents of mails",
        table="emails",
        age=Age.CONTENTS,
        order="queued_at",
        where="t.data <> '{}' AND t.status NOT IN ('queued', 'sending') AND t.queued_at < now() - $1::interval",
        work=(
            "UPDATE billing.emails SET data = '{}', "
            "recipient = CASE WHEN customer_id IS NOT NULL THEN recipient END, "
            "last_error = CASE WHEN status = 'failed' THEN 'pruned' ELSE last_error END, "
            "status = CASE WHEN status = 'failed' THEN 'withheld' ELSE status END WHERE email_key = ANY($1::text[])",
        ),
        key="email_key",
    ),
    PruneStep(
        name="contents of timers",
        table="timers",
        age=Age.CONTENTS,
        order="due_at",
        where="t.data <> '{}' AND t.status IN ('done', 'cancelled') AND t.due_at < now() - $1::interval",
        work=("UPDATE billing.timers SET data = '{}' WHERE timer_key = ANY($1::text[])",),
        key="timer_key",
    ),
    PruneStep(
        name="contents of calls",
        table="stripe_calls",
        age=Age.CONTENTS,
        order="queued_at",
        where=(
            "t.params <> '{}' AND t.status IN ('done', 'withheld', 'suppressed') AND t.queued_at < now() - $1::interval"
        ),
        work=("UPDATE billing.stripe_calls SET params = '{}' WHERE call_key = ANY($1::text[])",),
        key="call_key",
    ),
    PruneStep(
        name="contents of notifications",
        table="notifications",
        age=Age.CONTENTS,
        order="queued_at",
        where=(
            "t.data <> '{}' AND t.status NOT IN ('queued', 'sending', 'failed') AND t.queued_at < now() - $1::interval"
        ),
        work=("UPDATE billing.notifications SET data = '{}' WHERE notification_key = ANY($1::text[])",),
        key="notification_key",
    ),
    PruneStep(
        name="closed dead letters",
        table="dead_letters",
        age=Age.RECORDS,
        order="last_failed_at",
        where="t.status IN ('resolved', 'discarded') AND t.last_failed_at < now() - $1::interval",
        work=_delete("dead_letters"),
    ),
    PruneStep(
        name="deleted exports",
        table="exports",
        age=Age.RECORDS,
        order="requested_at",
        where="t.status = 'deleted' AND t.requested_at < now() - $1::interval",
        work=_delete("exports"),
    ),
    # The newest run of each account and scope is where the next one begins.
    PruneStep(
        name="old reconciliations",
        table="reconciliations",
        age=Age.RECORDS,
        order="ended_at",
        where=(
            "t.ended_at < now() - $1::interval AND EXISTS (SELECT FROM billing.reconciliations n WHERE "
            "n.account = t.account AND n.scope = t.scope AND n.started_at > t.started_at AND n.ended_at IS NOT NULL)"
        ),
        work=_delete("reconciliations"),
    ),
    PruneStep(
        name="differences of old audits",
        table="audit_differences",
        age=Age.RECORDS,
        order="run_id",
        where=(
            "t.run_id IN (SELECT a.run_id FROM billing.audits a WHERE a.ended_at < now() - $1::interval "
            "AND EXISTS (SELECT FROM billing.audits n WHERE n.account = a.account AND n.scope = a.scope "
            "AND n.started_at > a.started_at AND n.ended_at IS NOT NULL))"
        ),
        work=_delete("audit_differences"),
    ),
    PruneStep(
        name="old audits",
        table="audits",
        age=Age.RECORDS,
        order="ended_at",
        where=(
            "t.ended_at < now() - $1::interval AND EXISTS (SELECT FROM billing.audits n WHERE "
            "n.account = t.account AND n.scope = t.scope AND n.started_at > t.started_at AND n.ended_at IS NOT NULL)"
        ),
        work=_delete("audits"),
    ),
    PruneStep(
        name="actions of the console",
        table="console_actions",
        age=Age.RECORDS,
        order="ended_at",
        where="t.ended_at < now() - $1::interval",
        work=_delete("console_actions"),
    ),
)
"""In the order in which they run."""


_PAYLOADS = "SELECT event_id, payload::text FROM billing.events WHERE event_id = ANY($1::text[])"
_NOTE_KEYS = (
    "UPDATE billing.events e SET payload_place = k.place, payload_key = k.key "
    "FROM unnest($1::text[], $2::text[], $3::bytea[]) AS k (event_id, place, key) WHERE e.event_id = k.event_id"
)
_HAS_ARCHIVED = "SELECT EXISTS (SELECT FROM billing.events WHERE payload_key IS NOT NULL)"
_TODAY = "SELECT (now() AT TIME ZONE 'UTC')::date"
_LAST_DAY = "SELECT ((now() - $1::interval) AT TIME ZONE 'UTC')::date"


async def count_due(
    connection: asyncpg.Connection[asyncpg.Record], ages: Mapping[Age, timedelta | None]
) -> dict[str, int]:
    """Returns how many rows each step would prune. An age of None keeps them. Raises StoreUnavailable."""
    with classified():
        return {
            step.name: await connection.fetchval(step.count, age)
            for step in STEPS
            if (age := ages[step.age]) is not None
        }


async def prune(
    connection: asyncpg.Connection[asyncpg.Record],
    ages: Mapping[Age, timedelta | None],
    say: Callable[[int, int | None], None] | None = None,
    archive: Archive | None = None,
    *,
    may_end_for_good: bool = False,
) -> dict[str, int]:
    """Prunes what is due and returns the rows of each step. `say` gets the rows so far.

    A run that is interrupted has committed its batches; the next one continues. If the archive fails, the other steps
    are done before its error is raised. Without an archive, payloads of a database that has archived others end only if
    they `may_end_for_good`. Raises StoreUnavailable, InvalidSettings, and what the archive raises.
    """
    if archive is None or not archive.is_on:
        archive = None
        await _check_archive_is_not_missing(connection, may_end_for_good=may_end_for_good)
    done: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    away: ArchiveAway | None = None
    # Before the first step: a file that goes at the end has no key that a step has kept.
    ended = await _ended(connection, ages[Age.ARCHIVED]) if archive is not None else None
    home = await _home(connection) if archive is not None else ""
    for step in STEPS:
        age = ages[step.age]
        if age is None:
            continue
        done[step.name] = 0
        while True:
            began = loop.time()
            try:
                rows = await _batch(connection, step, age, archive if step.is_archived else None, home)
            except ArchiveAway as error:
                away = error
                break
            if not rows:
                break
            done[step.name] += rows
            if say is not None:
                say(sum(done.values()), None)
            await asyncio.sleep(loop.time() - began)
    if archive is not None and ended is not None:
        try:
            await archive.delete_before(home, ended)
        except ArchiveAway as error:
            away = away or error
    if away is not None:
        raise away
    return done


async def _check_archive_is_not_missing(
    connection: asyncpg.Connection[asyncpg.Record], *, may_end_for_good: bool
) -> None:
    with classified():
        if not may_end_for_good and await connection.fetchval(_HAS_ARCHIVED):
            raise InvalidSettings(
                "BILLING_PAYLOADS_URL is not set here, and payloads of this database are archived: set it, "
                "or prune with --without-archive, which ends payloads for good"
            )


async def _ended(connection: asyncpg.Connection[asyncpg.Record], age: timedelta | None) -> date | None:
    """Returns the day before which archived files end, None if they are kept."""
    if age is None:
        return None
    with classified():
        day: date = await connection.fetchval(_LAST_DAY, age)
    return day


async def _home(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """Returns the database's id, under which its files are: databases may share an address."""
    with classified():
        found = await identity(connection)
    if found is None:
        raise InvalidSettings("the database has no id: run billing migrate")
    return found.database_id


async def _batch(
    connection: asyncpg.Connection[asyncpg.Record],
    step: PruneStep,
    age: timedelta,
    archive: Archive | None,
    home: str,
) -> int:
    with classified():
        async with connection.transaction():
            keys = [row[0] for row in await connection.fetch(step.batch, age)]
            kept: Sequence[KeptPayload] = ()
            if keys and archive is not None:
                payloads = await _slice(connection, keys)
                keys = [event_id for event_id, _ in payloads]
                kept = await archive.keep(home, await connection.fetchval(_TODAY), payloads)
            try:
                if kept:
                    columns = zip(*((one.event_id, one.place, one.key) for one in kept), strict=True)
                    await connection.execute(_NOTE_KEYS, *columns)
                for statement in step.work if keys else ():
                    await connection.execute(statement, keys)
            except Exception as error:
                # Not if the commit fails: it may have happened, and the keys would be stored without their file.
                if kept and archive is not None:
                    await _take_back(archive, kept, error)
                raise
    return len(keys)


async def _slice(connection: asyncpg.Connection[asyncpg.Record], keys: list[str]) -> list[tuple[str, str]]:
    """Returns as many of these payloads as memory may hold at once, at least one. Others wait for the next batch."""
    found, size = list[tuple[str, str]](), 0
    async for row in connection.cursor(_PAYLOADS, keys, prefetch=_READ_AT_ONCE):
        if size >= SLICE_BYTES:
            break
        found.append((row[0], row[1]))
        size += len(row[1])
    return found


async def _take_back(archive: Archive, kept: Sequence[KeptPayload], error: Exception) -> None:
    """Deletes the file of a batch that is rolled back. If that fails, too, the first error says so."""
    try:
        await archive.take_back(kept)
    except ArchiveAway as away:
        error.add_note(f"a file that no key reads is left: {away}")
