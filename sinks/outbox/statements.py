"""The SQL statements by which dispatchers and operators use one outbox table. Built once per outbox, from constants."""

# ruff: noqa: S608 - the statements are built from Queue objects, which contain only constants

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from sinks.postgres import shadow
from sinks.postgres.outboxes import ERASED, Outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How the rows of one outbox are claimed and listed. All values are constants in code, never user input."""

    outbox: Outbox
    listed: str
    """The columns that `list` returns."""
    read: str = "SELECT * FROM claimed"
    """The query that returns a claim's rows; `claimed` contains the claimed rows, and `claimed_at`, Postgres' time."""
    may_claim: str = "true"
    """An additional condition for claiming a due row `o`."""
    claim: timedelta = timedelta(minutes=10)
    """The default duration of a claim."""
    claimable: tuple[str, ...] = ()
    """Statuses of rows that can be claimed, if not `queued` and `busy`."""
    on_claim: str = ""
    """Assignments of a claim, if not the status `busy`. $1 is the clock's offset, from $5 the claim's own values."""
    on_done: str = ""
    """Additional assignments of a delivery, each starting with a comma; $2 is the clock's offset."""
    on_requeue: str = ""
    """Additional assignments of a requeue, each starting with a comma; $4 is the clock's offset."""


class Statements:
    """The statements of one queue."""

    def __init__(self, q: Queue) -> None:
        self._q = q
        self._done: dict[tuple[str | None, tuple[str, ...]], str] = {}
        table, key, busy = q.outbox.table.fullname, q.outbox.key, q.outbox.busy
        since = q.outbox.since
        is_open = f"status IN ('queued', '{busy}')"
        can_be_claimed = f"status IN ({_listed(q.claimable or ('queued', busy))})"
        kind = f"($2::text IS NULL OR {q.outbox.kind} = $2)" if q.outbox.kind else "$2::text IS NULL"
        due = "next_attempt_at <= now() + $1::interval"
        self.has_due = (
            f"SELECT EXISTS (SELECT FROM {table} WHERE {can_be_claimed} AND {due}) AS due, {shadow.IS_ON} AS is_shadow"
        )
        # The CTE locks each row before the update. Postgres may run a subquery twice, which would claim too many rows.
        self.claim = f"""
WITH due AS (
    SELECT {key} FROM {table} o WHERE {can_be_claimed} AND {due} AND {q.may_claim}
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {table} o
    SET {q.on_claim or f"status = '{busy}'"}, claimed_by = $3, attempts = o.attempts + 1,
        next_attempt_at = now() + $1::interval + $4::interval
    FROM due WHERE o.{key} = due.{key}
    RETURNING o.*, now() + $1::interval AS claimed_at, {shadow.IS_ON} AS is_shadow
)
{q.read} ORDER BY {since}, {key}"""
        self._settle = (
            f"UPDATE {table} SET claimed_by = NULL, {{}} "
            f"WHERE {key} = $1 AND claimed_by = $2 AND attempts = $3 AND status = $4"
        )
        again = (
            f"status = CASE WHEN status = '{busy}' THEN 'queued' ELSE status END, "
            "next_attempt_at = now() + $5::interval"
        )
        self.retry = self._settle.format(f"{again}, last_error = $6")
        self.give_back = self._settle.format(f"{again}, last_error = coalesce($6, last_error), attempts = attempts - 1")
        self.depth = (
            f"SELECT count(*) AS open, extract(epoch FROM now() + $1::interval - min(next_attempt_at)) AS late, "
            f"min({since}) AS since FROM {table} WHERE {is_open}"
        )
        # An erasure marks what was open as failed. There is nothing left to deliver, so it is no failure to look at.
        shown = (
            f"($1::text IS NULL OR status = $1 AND (status <> 'failed' OR coalesce(last_error, '') <> '{ERASED}')) "
            f"AND {kind} AND ($3::text IS NULL OR customer_id = $3)"
        )
        self.list = f"SELECT {q.listed} FROM {table} WHERE {shown} ORDER BY {since} DESC, {key} LIMIT $4"
        self.count = f"SELECT count(*) FROM {table} WHERE {shown}"
        chosen = f"""
WITH chosen AS (
    SELECT {key} FROM {table} WHERE {{}} AND ($1::text[] IS NULL OR {key} = ANY($1)) AND {kind}
    ORDER BY {since}, {key} LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE {table} o SET {{}}
FROM chosen WHERE o.{key} = chosen.{key}
RETURNING o.{key} AS key"""
        self.requeue = chosen.format(
            "(status = 'failed' OR $1::text[] IS NOT NULL AND status = 'withheld') "
            "AND ($5::text IS NULL OR strpos(lower(coalesce(last_error, '')), lower($5)) > 0) "
            f"AND ($6::timestamptz IS NULL OR {since} <= $6) AND coalesce(last_error, '') <> '{ERASED}'",
            f"status = 'queued', attempts = 0, next_attempt_at = now() + $4::interval, claimed_by = NULL, "
            f"last_error = NULL{q.on_requeue}",
        )
        self.discard = chosen.format("status IN ('queued', 'failed')", "status = 'withheld', last_error = $4")

    def done(self, status: str | None, columns: tuple[str, ...]) -> str:
        """A statement that marks rows as delivered, and returns the keys of those whose claim was still held.

        $1 is the claimer, $2 the clock's offset, $3 the rows as JSON: key, attempts, status, and values of `columns`.
        """
        if (status, columns) not in self._done:
            self._done[status, columns] = self._mark(status or self._q.outbox.done, columns)
        return self._done[status, columns]

    def _mark(self, final: str, columns: Iterable[str]) -> str:
        table, key = self._q.outbox.table.fullname, self._q.outbox.key
        extra = self._q.on_done if final == self._q.outbox.done else ""
        values = "".join(f', "{name}" = mark."{name}"' for name in columns)
        # $2 has to appear in the statement, also where no column uses the clock.
        checked = "last_error = CASE WHEN $2::interval IS NULL THEN o.last_error END"
        return f"""
UPDATE {table} o SET claimed_by = NULL, status = '{final}', {checked}{extra}{values}
FROM json_populate_recordset(NULL::{table}, $3::json) mark
WHERE o.{key} = mark.{key} AND o.claimed_by = $1 AND o.attempts = mark.attempts AND o.status = mark.status
RETURNING o.{key} AS key"""

    def closed(self, status: str, columns: Iterable[str]) -> str:
        """A statement that closes a row without delivering it; $5 is the reason, values of `columns` start at $6."""
        return self._settle.format(f"status = '{status}', last_error = $5{_assigned(columns, 6)}")

    def held(self, columns: Iterable[str]) -> str:
        """The same for shadow mode, while it is on. What the switch could not see yet is delivered after the claim."""
        return f"{self.closed('withheld', columns)} AND {shadow.IS_ON}"


def in_order(outbox: Outbox, who: str, blocks: str = "true") -> str:
    """A condition for claiming `o`: no earlier open row of the same customer. `who` limits it to some rows `o`.

    `blocks` is a condition for the earlier row. Rows queued by one batch have the same time. Their order is then that
    of their events' offsets.
    """
    table, key, since = outbox.table.fullname, outbox.key, outbox.since
    return f"""(NOT ({who}) OR o.customer_id IS NULL OR NOT EXISTS (
        SELECT FROM {table} earlier LEFT JOIN billing.events ee ON ee.event_id = earlier.event_id
        WHERE earlier.account = o.account AND earlier.customer_id = o.customer_id
            AND earlier.status IN ('queued', '{outbox.busy}') AND earlier.{key} <> o.{key} AND {blocks}
            AND (earlier.{since}, coalesce(ee."offset", 0), earlier.{key}) < (
                o.{since},
                coalesce((SELECT e."offset" FROM billing.events e WHERE e.event_id = o.event_id), 0),
                o.{key}
            )
    ))"""


def _listed(statuses: Iterable[str]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


def _assigned(columns: Iterable[str], first: int) -> str:
    return "".join(f', "{name}" = ${at}' for at, name in enumerate(columns, first))
