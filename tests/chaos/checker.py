"""Check the tables and the mail after a chaos run: each event applied once, in the log's order; each mail sent once.

answered 200 ─▶ on the log ─▶ folded (tests/oracle/fold.py) ─▶ same ledger, state, outboxes ─▶ one message per mail
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import asyncpg
import orjson
from sqlalchemy.dialects.postgresql import JSONB

from schemas.record import Record
from schemas.state import ROW_TYPES, Row, Timer
from schemas.statuses import TimerStatus
from schemas.timer import RETRY
from sinks.email.message import message_id
from sinks.postgres.loading import SHAPES
from sinks.postgres.outboxes import EMAILS, OUTBOXES, Origin, Outbox
from sinks.postgres.positions import WITHHELD
from streams.rules.catalog import stream_of
from tests.chaos.withheld import is_justified
from tests.oracle.fold import Fold

_MESSAGE_ID = re.compile(rb"^Message-ID: (<[^>]+>)", re.MULTILINE | re.IGNORECASE)
_ANY_TIME = datetime.fromtimestamp(0, UTC)
"""For times that are not compared."""
_SHOWN = 5
"""Examples of each kind of difference in a report."""


Columns = dict[str, Any]


@dataclass(slots=True)
class Findings:
    """Differences by kind; a correct run has none. Each entry names the event, row or mail."""

    lost: list[str] = field(default_factory=list)
    """Answered 200, but missing from the log or the ledger, or still waiting."""
    invented: list[str] = field(default_factory=list)
    """In the tables or the mailbox, but not ordered by any record on the log."""
    judged_otherwise: list[str] = field(default_factory=list)
    """Outcomes that differ from what the rules give when the log is applied in order."""
    out_of_order: list[str] = field(default_factory=list)
    """Applied from a position that is not its first one, or before an earlier record of its partition."""
    state: list[str] = field(default_factory=list)
    """Rows that differ from the log folded by the rules: lost, doubled or disordered effects."""
    outboxes: list[str] = field(default_factory=list)
    """Rows of outboxes that are missing, or that the rules did not order, or not in this form."""
    mails_missing: list[str] = field(default_factory=list)
    mails_doubled: list[str] = field(default_factory=list)
    """Sent more often than the tries explain."""
    letters: list[str] = field(default_factory=list)
    """Dead events without a dead letter, and dead letters without a dead event."""
    mails_in_the_window: int = 0
    """Sent again after a try with an unknown result. SMTP cannot exclude this, so it is not an error."""
    mails_across_streams: int = 0
    """Mails that differ because another group's stream was ahead or behind when the mail was decided. The log's order
    does not bind across groups, so this is not an error."""
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not any(self.wrong.values())

    @property
    def wrong(self) -> dict[str, list[str]]:
        return {name: found for name, found in asdict(self).items() if isinstance(found, list)}

    def lines(self) -> list[str]:
        """The report: each kind with its count and a few examples."""
        lines = [f"{name.replace('_', ' '):>24}  {count}" for name, count in self.counted.items()]
        for name, found in self.wrong.items():
            lines.append(f"{name.replace('_', ' '):>24}  {len(found)}")
            lines += [f"{'':>26}{example}" for example in found[:_SHOWN]]
        lines.append(f"{'mails in the SMTP window':>24}  {self.mails_in_the_window}")
        return [*lines, f"{'mails across streams':>24}  {self.mails_across_streams}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Content of Postgres, read in one transaction."""

    ledger: dict[str, Columns]
    state: Mapping[type[Row], Mapping[tuple[str, ...], Row]]
    outboxes: Mapping[Outbox, dict[str, Columns]]
    letters: list[Columns]

    @property
    def emails(self) -> dict[str, Columns]:
        return self.outboxes[EMAILS]


@dataclass(frozen=True, slots=True)
class Post:
    """The mailbox folder, the domain of the Message-IDs, and how often the server broke off after each message."""

    mailbox: Path
    domain: str
    cut_off: Counter[str] = field(default_factory=Counter)


_LEDGER = """
SELECT event_id, type, outcome, reason, "partition", "offset", applied_at FROM billing.events
"""
_LETTERS = 'SELECT event_id, "partition", "offset" FROM billing.dead_letters'


async def read_tables(url: str) -> Tables:
    """Read all tables that the log determines."""
    connection = await asyncpg.connect(url, timeout=30)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            state = {}
            for kind in ROW_TYPES:
                shape = SHAPES[kind]
                query = f"SELECT {shape.selected} FROM {shape.table.fullname} AS t"
                rows: Iterable[Row] = map(shape.row, await connection.fetch(query, timeout=120))
                state[kind] = {row.key: row for row in rows}
            return Tables(
                ledger={row["event_id"]: row for row in await _rows(connection, _LEDGER)},
                state=state,
                outboxes={
                    outbox: {row[outbox.key]: row for row in await _rows(connection, _queued(outbox))}
                    for outbox in OUTBOXES
                },
                letters=await _rows(connection, _LETTERS),
            )
    finally:
        await connection.close(timeout=30)


async def _rows(connection: asyncpg.Connection[asyncpg.Record], query: str) -> list[Columns]:
    return [dict(row) for row in await connection.fetch(query, timeout=120)]


def check(
    accepted: Iterable[str],
    records: Sequence[Record],
    fold: Fold,
    tables: Tables,
    post: Post,
    own: frozenset[str] = frozenset(),
) -> Findings:
    """Compare the tables and the mailbox with the log.

    `accepted` are the ids that were answered 200. `fold` has applied `records`, the whole log. `own` are streams with a
    consumer group of their own: there is no order between them and the other streams.
    """
    findings = Findings()
    _check_ledger(findings, accepted, records, fold, tables)
    _check_order(findings, records, fold, tables, own)
    findings.state = differing_rows(fold, tables.state)
    _check_outboxes(findings, fold, tables)
    if own:
        across = [found for found in findings.outboxes if found.startswith("mail ")]
        findings.mails_across_streams = len(across)
        findings.outboxes = [found for found in findings.outboxes if found not in across]
    _check_letters(findings, fold, tables)
    _check_mails(findings, tables, post)
    return findings


def differing_rows(fold: Fold, state: Mapping[type[Row], Mapping[tuple[str, ...], Row]]) -> list[str]:
    """Rows that differ from the fold, each with the columns that differ as `column=table:fold`."""
    found = []
    for kind in state:
        stored = {key: row for key, row in state[kind].items() if not _is_retry(row)}
        folded_rows = {row.key: row for row in fold.known.changed(kind)[0]}
        for key in sorted(stored.keys() | folded_rows.keys()):
            table, folded = stored.get(key), folded_rows.get(key)
            if table is None or folded is None:
                found.append(f"{kind.__name__} {'/'.join(key)} is only in the {'fold' if table is None else 'table'}")
            elif differing := _differing(table, folded, fold):
                found.append(f"{kind.__name__} {'/'.join(key)}: {differing}")
    return found


def _differing(table: Row, folded: Row, fold: Fold) -> str:
    differing = []
    for column in fields(table):
        one, other = getattr(table, column.name), getattr(folded, column.name)
        if isinstance(one, Mapping):
            one, other = _plain(one), _plain(other)
        if isinstance(table, Timer) and column.name == "status" and _may_be_cancelled(table, fold):
            continue
        if one != other:
            differing.append(f"{column.name}={one}:{other}")
    return ", ".join(differing)


def _is_retry(row: Row) -> TypeGuard[Timer]:
    """Whether it is a timer of the waiting room. An event that waited keeps it; the fold has none."""
    return isinstance(row, Timer) and row.kind == RETRY


def _may_be_cancelled(timer: Timer, fold: Fold) -> bool:
    """Whether the status may differ: the log does not show if a fired timer was cancelled just before or just after."""
    return timer.timer_key in fold.fired and timer.status is not TimerStatus.PENDING


def _check_ledger(
    findings: Findings, accepted: Iterable[str], records: Sequence[Record], fold: Fold, tables: Tables
) -> None:
    accepted = set(accepted)
    on_log = {record.headers["event_id"] for record in records}
    findings.lost += [f"{id_} is not on the log" for id_ in sorted(accepted - on_log)]
    findings.lost += [f"{id_} is not in the ledger" for id_ in sorted(on_log - tables.ledger.keys())]
    findings.invented += [f"event {id_}" for id_ in sorted(tables.ledger.keys() - on_log)]
    for id_, row in tables.ledger.items():
        judged = fold.ledger.get(id_)
        if row["outcome"] == "waiting":
            findings.lost.append(f"{id_} ({row['type']}) waits: {row['reason']}")
        if judged is not None and row["outcome"] != judged.outcome:
            findings.judged_otherwise.append(
                f"{id_} ({row['type']}) is {row['outcome']}, by the rules {judged.outcome}"
            )
    findings.counted |= {"events answered 200": len(accepted), "records on the log": len(records)}
    outcomes = Counter(row["outcome"] for row in tables.ledger.values())
    findings.counted |= {outcome: outcomes[outcome] for outcome in sorted(outcomes)}
    findings.counted["duplicates"] = len(records) - len(on_log)


def _check_order(
    findings: Findings, records: Sequence[Record], fold: Fold, tables: Tables, own: frozenset[str]
) -> None:
    newest: dict[tuple[int, bool], Any] = {}
    waited = fold.waited | {row.subject for row in tables.state[Timer].values() if _is_retry(row)}
    for record in records:
        event_id, place = record.headers["event_id"], (record.partition, record.offset)
        row, judged = tables.ledger.get(event_id), fold.ledger.get(event_id)
        if row is None or judged is None or (judged.partition, judged.offset) != place:
            continue  # a duplicate
        if judged.outcome == "dead" or event_id in waited:
            continue  # each delivery is decided again
        if (row["partition"], row["offset"]) != place:
            findings.out_of_order.append(f"{event_id} of {place} was applied from {row['partition']}, {row['offset']}")
        lane = record.partition, stream_of(row["type"]) in own
        if row["applied_at"] < newest.get(lane, row["applied_at"]):
            findings.out_of_order.append(f"{event_id} of {place} was applied before an earlier record")
        newest[lane] = row["applied_at"]


def _check_outboxes(findings: Findings, fold: Fold, tables: Tables) -> None:
    for outbox, ordered in fold.orders.items():
        name, stored = outbox.name, tables.outboxes[outbox]
        findings.outboxes += [f"{name} {key} was not queued" for key in sorted(ordered.keys() - stored.keys())]
        findings.outboxes += [
            f"{name} {key} was not ordered by any event" for key in sorted(stored.keys() - ordered.keys())
        ]
        for key in ordered.keys() & stored.keys():
            envelope, order = ordered[key]
            wanted = outbox.to_row(order, Origin(envelope.id, envelope.livemode), _ANY_TIME)
            different = [
                n for n in _fixed_columns(outbox) if _stored(outbox, stored[key], n) != _plain(getattr(wanted, n))
            ]
            if different:
                listed = ", ".join(different)
                findings.outboxes.append(f"{name} {key} differs from what {envelope.id} ordered: {listed}")


def _fixed_columns(outbox: Outbox) -> list[str]:
    """The columns that the order determines. The dispatcher fills in the recipient of a mail."""
    return [f.name for f in fields(outbox.row_type) if f.name not in outbox.not_compared | {"recipient"}]


def _stored(outbox: Outbox, row: Columns, name: str) -> object:
    is_json = isinstance(outbox.table.c[name].type, JSONB)
    return orjson.loads(row[name]) if is_json else _plain(row[name])


def _queued(outbox: Outbox) -> str:
    return f"SELECT * FROM {outbox.table.fullname} AS t WHERE {outbox.compared_if}"  # only constants


def _check_letters(findings: Findings, fold: Fold, tables: Tables) -> None:
    dead = {id_ for id_, judged in fold.ledger.items() if judged.outcome == "dead"}
    kept = {row["event_id"] for row in tables.letters}
    findings.letters += [f"{id_} is dead without a letter" for id_ in sorted(dead - kept)]
    findings.letters += [f"{id_} has a letter but is not dead" for id_ in sorted(kept - dead)]
    findings.counted["dead letters"] = len(tables.letters)


def _check_mails(findings: Findings, tables: Tables, post: Post) -> None:
    arrived = Counter(id_of(path.read_bytes()) for path in post.mailbox.glob("*.eml"))
    keys = {message_id(key, post.domain): key for key in tables.emails}
    findings.invented += [f"mail {id_}" for id_ in sorted(arrived.keys() - keys.keys())]
    mails_withheld = after_a_restore = 0
    for id_, key in keys.items():
        row, times = tables.emails[key], arrived[id_]
        if row["status"] == "withheld" and row["last_error"] == WITHHELD and times <= 1 + post.cut_off[id_]:
            after_a_restore += 1
        elif row["status"] == "withheld" and times <= row["attempts"] + post.cut_off[id_]:
            mails_withheld += 1
            findings.mails_in_the_window += times  # a try with an unknown result, before the facts changed
            if not is_justified(row | {"data": orjson.loads(row["data"])}, tables.state):
                findings.mails_missing.append(f"{key} is withheld without need: {row['last_error']}")
        elif times == 0 or row["status"] != "sent":
            findings.mails_missing.append(f"{key} arrived {times} times and is {row['status']}")
        elif times > row["attempts"] + post.cut_off[id_]:
            findings.mails_doubled.append(f"{key} arrived {times} times in {row['attempts']} tries")
        else:
            findings.mails_in_the_window += times - 1
    findings.counted |= {
        "mails queued": len(tables.emails),
        "mails withheld": mails_withheld,
        "withheld after a restore": after_a_restore,
        "messages arrived": arrived.total(),
    }


def id_of(message: bytes) -> str:
    """The Message-ID. Reads only the first 4 KiB of the message."""
    found = _MESSAGE_ID.search(message[:4096])
    return found[1].decode() if found else "without a Message-ID"


def _plain(value: object) -> object:
    """The value as it is read back from a JSON column."""
    return orjson.loads(orjson.dumps(value, default=_dict))


def _dict(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
