"""Applies events to the customers' rows as they are now, in memory, with the same `process` as the worker.

    letters ─▶ their records ─▶ process, on a snapshot without locks ─▶ verdicts, changes, mails; nothing is written

It cannot show what only the database would refuse, and what another event changes until the replay. A mail is checked
again before it leaves, so fewer may be sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventlog.entry import Entry
from eventlog.lookup import RecordLookup
from eventlog.threads import in_thread
from recovery.rehearsal.store import RehearsalStore
from recovery.replay.letters import entry_of, kept_entry, letters_by_event
from schemas.record import Record, record_of
from schemas.settings import Config, Settings
from schemas.verdict import SETTLED
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter
from sinks.postgres.outboxes import EmailRow, ExportRow, OutboxRow, StripeCallRow
from sinks.postgres.rows import LedgerRow
from streams.brake import Brake
from streams.letters import NoDeadLetters
from streams.process import Processor
from streams.rules.registry import Rule

_CHUNK = 200
MOST = 10_000
"""At most this many events are rehearsed: their rows and changes are kept in memory."""
_NO_LIMIT = 10**12


@dataclass(frozen=True, slots=True)
class RehearsedEvent:
    """What one event would do. `changes` as in the ledger (schemas/changes.py); `mails` are templates."""

    event_id: str
    type: str
    account: str
    customer_id: str | None
    outcome: str
    reason: str | None
    changes: list[Mapping[str, Any]]
    mails: list[str]


@dataclass(slots=True)
class Rehearsal:
    """The result. All counts are of what a replay would do if it ran now."""

    events: list[RehearsedEvent] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Why events would die again or wait, the most frequent first."""
    mails: dict[str, int] = field(default_factory=dict)
    """Mails that would be queued, by template. Mails that were queued before are not queued again."""
    people: int = 0
    """To how many customers or addresses."""
    calls: int = 0
    exports: int = 0
    tables: dict[str, int] = field(default_factory=dict)
    """In how many rows of each table fields would change."""
    left_out: int = 0
    """Events beyond MOST, which were not rehearsed."""
    settled: int = 0
    """Events that are settled already; a replay closes their letters and appends nothing."""
    gone: list[str] = field(default_factory=list)
    """Events whose bytes are neither on the dead-letter topic nor in the ledger."""


async def rehearse_letters(
    settings: Settings,
    config: Config,
    rules: Mapping[str, Rule],
    index: DeadLetterIndex,
    letters: Sequence[IndexedLetter],
) -> Rehearsal:
    """Rehearses a replay of these letters, which are in the order of DeadLetterIndex.find.

    Raises StoreUnavailable, LogUnavailable, InvalidSettings.
    """
    found = Rehearsal()
    names = [letter.event_id for letter in letters if letter.event_id]
    kept = await index.kept_events(names)
    settled = {name for name, event in kept.items() if event.outcome in SETTLED}
    found.settled = len(settled)
    records: list[Record] = []
    with RecordLookup(settings.kafka, settings.dead_topic) as topic:
        groups = list(letters_by_event(letter for letter in letters if letter.event_id not in settled))
        for group in groups[: MOST + 1]:
            entry = await in_thread(entry_of, topic, group)
            event = kept.get(group[0].event_id or "")
            if entry is None and event is not None:
                entry = kept_entry(event)
            if entry is None:
                found.gone.append(group[0].event_id or f"{group[0].topic}/{group[0].partition}/{group[0].offset}")
                continue
            records.append(_record(entry, group[0].topic, group[0].partition, group[0].offset))
    await rehearse(settings, config, rules, records, found)
    found.left_out = max(0, len(groups) - MOST)
    return found


async def rehearse_entries(
    settings: Settings, config: Config, rules: Mapping[str, Rule], entries: Sequence[Entry]
) -> Rehearsal:
    """Rehearses appending these entries to the log."""
    records = [_record(entry, settings.events_topic, 0, at) for at, entry in enumerate(entries)]
    return await rehearse(settings, config, rules, records, Rehearsal())


async def rehearse(
    settings: Settings, config: Config, rules: Mapping[str, Rule], records: Sequence[Record], found: Rehearsal
) -> Rehearsal:
    """Processes the records on a snapshot and adds the result to `found`. At most MOST of them."""
    found.left_out = max(0, len(records) - MOST)
    records = records[:MOST]
    async with RehearsalStore.on(settings.database_url) as store:
        processor = Processor(
            store=store,
            dead_letters=NoDeadLetters(),
            rules=rules,
            config=config,
            group=f"{settings.topic_prefix}.rehearsal",
            code_version="rehearsal",
            brake=Brake(let_die=_NO_LIMIT),
        )
        for at in range(0, len(records), _CHUNK):
            await processor.process(records[at : at + _CHUNK])
        return _summed(found, list(store.effects.ledger.values()), store.effects.outbox)


def _summed(found: Rehearsal, ledger: Sequence[LedgerRow], outbox: Sequence[OutboxRow]) -> Rehearsal:
    """Adds verdicts and effects to the result."""
    mails = [row for row in outbox if isinstance(row, EmailRow) and row.status == "queued"]
    by_event: dict[str, list[str]] = {}
    for mail in mails:
        by_event.setdefault(mail.event_id, []).append(mail.template)
    found.events = [
        RehearsedEvent(
            event_id=row.event_id,
            type=row.type,
            account=row.account,
            customer_id=row.customer_id,
            outcome=row.outcome,
            reason=row.reason,
            changes=list(row.changes or ()),
            mails=by_event.get(row.event_id, []),
        )
        for row in ledger
    ]
    found.outcomes = dict(Counter(row.outcome for row in ledger).most_common())
    unsettled = [row for row in ledger if row.outcome in ("dead", "waiting")]
    found.reasons = dict(Counter(row.reason or row.outcome for row in unsettled).most_common())
    found.mails = dict(Counter(mail.template for mail in mails).most_common())
    found.people = len({(mail.account, mail.recipient or mail.customer_id) for mail in mails})
    found.tables = dict(Counter(change["table"] for row in ledger for change in row.changes or ()).most_common())
    queued = Counter(type(row) for row in outbox if row.status == "queued")
    found.calls, found.exports = queued[StripeCallRow], queued[ExportRow]
    return found


def _record(entry: Entry, topic: str, partition: int, offset: int) -> Record:
    return record_of(topic, partition, offset, entry.key, entry.value, entry.headers, 0.0)
