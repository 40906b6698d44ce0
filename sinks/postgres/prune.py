"""Ends what only grows: payloads after a time, contents of settled outbox rows, closed letters and old runs.

Rows that make something happen once keep their keys: a ledger row, a mail, a timer, a call. Only their contents end.
Before a payload goes, the objects that it names are noted with their customer (ownership.py), so that an export and an
erasure still find everything. With an archive (sinks/payloads/) the payload is durable there before its batch is
committed, and its key is in the ledger; a payload that cannot be archived stays. Each batch is a short transaction that
waits for no lock; between two batches the server rests as long as the batch took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Protocol

import asyncpg

from schemas.payloads import KeptPayload
from schemas.verdict import SETTLED
from sinks.postgres.failures import classified
from sinks.postgres.ownership import FORGET_GUESTS, FORGET_GUESTS_UNLESS_ARCHIVED, KEEP_OWNERS_OF_EVENTS

ACTION = "prune"
"""The action in the audit log."""
BATCH = 1000

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
    async def keep(self, day: date, payloads: Sequence[tuple[str, str]]) -> Sequence[KeptPayload]: ...
    async def take_back(self, kept: Sequence[KeptPayload]) -> None: ...
    async def delete_before(self, day: date) -> int: ...


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
        where="t.payload_key IS NOT NULL AND t.payload_pruned_at < now() - $1::interval",
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
) -> dict[str, int]:
    """Prunes what is due and returns the rows of each step. `say` gets the rows so far.

    A run that is interrupted has committed its batches; the next one continues. Raises StoreUnavailable, and what the
    archive raises.
    """
    done: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    for step in STEPS:
        age = ages[step.age]
        if age is None:
            continue
        done[step.name] = 0
        while True:
            began = loop.time()
            rows = await _batch(connection, step, age, archive if step.is_archived else None)
            if not rows:
                break
            done[step.name] += rows
            if say is not None:
                say(sum(done.values()), None)
            await asyncio.sleep(loop.time() - began)
    if archive is not None and archive.is_on and (age := ages[Age.ARCHIVED]) is not None:
        with classified():
            day: date = await connection.fetchval("SELECT ((now() - $1::interval) AT TIME ZONE 'UTC')::date", age)
        await archive.delete_before(day)
    return done


async def _batch(
    connection: asyncpg.Connection[asyncpg.Record], step: PruneStep, age: timedelta, archive: Archive | None
) -> int:
    with classified():
        async with connection.transaction():
            keys = [row[0] for row in await connection.fetch(step.batch, age)]
            kept = await _archived(connection, keys, archive) if keys and archive is not None and archive.is_on else ()
            try:
                if kept:
                    columns = zip(*((one.event_id, one.place, one.key) for one in kept), strict=True)
                    await connection.execute(_NOTE_KEYS, *columns)
                for statement in step.work if keys else ():
                    await connection.execute(statement, keys)
            except Exception:
                # Not if the commit fails: it may have happened, and the keys would be stored without their file.
                if kept and archive is not None:
                    await archive.take_back(kept)
                raise
    return len(keys)


async def _archived(
    connection: asyncpg.Connection[asyncpg.Record], keys: list[str], archive: Archive
) -> Sequence[KeptPayload]:
    day: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    found = await connection.fetch(_PAYLOADS, keys)
    return await archive.keep(day, [(row[0], row[1]) for row in found])
