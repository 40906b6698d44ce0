"""Appends the events of dead letters to the log again, from the dead-letter topic or from the ledger.

replay_begun_at noted ─▶ appended to the log ─▶ marked `replayed` ─▶ (worker) event settled: `resolved`

killed before the append    the letter is open; the next replay takes it again and counts it as resumed
killed before the mark      the same, but the event may be on the log twice: once one copy is applied, the ledger drops
                            the other; if both die, there are two letters, and both name the replayed letter
killed after the mark       no effect: the event is on the log, and the worker closes the letter when it is settled
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson
from confluent_kafka import Message

from eventlog.append import EventAppender
from eventlog.entry import Entry, headers_of
from eventlog.lookup import RecordLookup
from eventlog.threads import in_thread
from schemas.dead_letter import PREFIX, original_headers
from schemas.rate import RateLimit
from schemas.record import Headers, Source, decode_headers
from schemas.settings import Settings
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, KeptEvent

CHUNK = 100
"""Events that are appended at once, if the rate allows it."""
REPLAY_OF = "replay_of"


@dataclass(slots=True)
class ReplayReport:
    """The result of a replay. `gone`: letters that are neither in the topic nor in the ledger any more."""

    replayed: int = 0
    settled: int = 0
    """Closed without being appended: their events are settled."""
    from_ledger: list[str] = field(default_factory=list)
    """Events of letters that the topic no longer contains: the ledger's JSON was appended, not the original bytes."""
    gone: list[str] = field(default_factory=list)
    resumed: int = 0
    """Letters that an earlier, interrupted replay had begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterReplay:
    """Replays letters in the log order of their events. `by` is the operator who started the replay."""

    letters: DeadLetterIndex
    dead_topic: RecordLookup
    event_log: EventAppender
    by: str

    async def run(
        self, found: Sequence[IndexedLetter], rate: RateLimit, progress: Callable[[int], None] = lambda _: None
    ) -> ReplayReport:
        """Replay `found`, which must be in the order of DeadLetterIndex.find. Letters of one event are replayed once.

        Raises ReplayUnderWay, StoreUnavailable, LogUnavailable. Letters not marked by then stay open, and another run
        continues with them.
        """
        report = ReplayReport(
            resumed=sum(letter.status == "open" and letter.replay_begun_at is not None for letter in found)
        )
        async with self.letters.replaying():
            settled = await self.letters.close_settled([letter.event_id for letter in found if letter.event_id])
            groups = list(letters_by_event(letter for letter in found if letter.event_id not in settled))
            report.settled = len(settled)
            progress(sum(letter.event_id in settled for letter in found))
            size = rate.burst(CHUNK)
            for at in range(0, len(groups), size):
                chunk = groups[at : at + size]
                await rate.take(len(chunk))
                await self._replay(chunk, report)
                progress(sum(map(len, chunk)))
        return report

    async def _replay(self, groups: Sequence[Sequence[IndexedLetter]], report: ReplayReport) -> None:
        entries: list[Entry] = []
        replayed: list[IndexedLetter] = []
        for letters in groups:
            entry = await in_thread(entry_of, self.dead_topic, letters)
            if entry is None and (entry := await self._from_ledger(letters[0])) is not None:
                report.from_ledger.append(letters[0].event_id or "")
            if entry is None:
                report.gone.append(letters[0].event_id or _place_of(letters[0], self.dead_topic.topic))
                continue
            entries.append(entry)
            replayed.extend(letters)
            report.replayed += 1
        if entries:
            await self.letters.begin(replayed)
            await self.event_log.append(entries)
            await self.letters.mark_replayed(replayed, self.by)

    async def _from_ledger(self, letter: IndexedLetter) -> Entry | None:
        if letter.event_id is None:
            return None
        kept = (await self.letters.kept_events([letter.event_id])).get(letter.event_id)
        return kept_entry(kept, _place_of(letter, self.dead_topic.topic)) if kept is not None else None


def read_letter(dead_topic: RecordLookup, letter: IndexedLetter) -> Message | None:
    """Return the letter's record, or None if it is no longer in the topic.

    A topic that was deleted and created again may have a different letter at this offset, so the headers are compared.
    """
    if letter.dead_place is None:
        return None
    message = dead_topic.read(*letter.dead_place)
    if message is None:
        return None
    names = decode_headers(headers_of(message))
    position = (names.get(f"{PREFIX}topic"), names.get(f"{PREFIX}partition"), names.get(f"{PREFIX}offset"))
    return message if position == (letter.topic, str(letter.partition), str(letter.offset)) else None


def entry_of(dead_topic: RecordLookup, letters: Sequence[IndexedLetter]) -> Entry | None:
    """Return the entry of the first of an event's letters that is still in the topic, None if there is none."""
    for letter in letters:
        message = read_letter(dead_topic, letter)
        if message is not None and (value := message.value()) is not None:
            headers = replay_headers(original_headers(headers_of(message)), _place_of(letter, dead_topic.topic))
            return Entry(message.key(), value, headers)
    return None


def replay_headers(original: Headers, replay_of: str) -> Headers:
    """Return the original headers with `source` set to replay, and `replay_of` set unless it is empty."""
    kept = tuple((name, value) for name, value in original if name not in ("source", REPLAY_OF))
    marked = (("source", Source.REPLAY.encode()), (REPLAY_OF, replay_of.encode()))
    return (*kept, *(marked if replay_of else marked[:1]))


def kept_entry(event: KeptEvent, replay_of: str = "") -> Entry | None:
    """Return a log entry made from the ledger's copy of an event, or None if the ledger has no copy of all of it.

    What dies while it is decoded may be anything: its copy need not be an event.
    """
    if event.payload is None:
        return None
    value = event.payload.encode()
    copy = orjson.loads(value)
    if not isinstance(copy, dict) or not all(isinstance(copy.get(name), str) for name in ("id", "type")):
        return None
    entry = Entry.of(
        copy,
        value,
        source=Source.REPLAY,
        received_at=event.received_at or datetime.now(UTC),
        livemode=event.livemode,
        account=event.account,
        api_version=event.api_version,
        endpoint=event.endpoint or "",
    )
    return replace(entry, headers=replay_headers(entry.headers, replay_of))


def _place_of(letter: IndexedLetter, dead_topic: str) -> str:
    """Return a letter's position as `topic/partition/offset`; that of its event's record if it was never published."""
    if letter.dead_place is None:
        return f"{letter.topic}/{letter.partition}/{letter.offset}"
    return f"{dead_topic}/{letter.dead_partition}/{letter.dead_offset}"


def letters_by_event(letters: Iterable[IndexedLetter]) -> Iterable[list[IndexedLetter]]:
    """Group letters by event, in the order of each event's first letter. A letter without event id is its own group."""
    groups: dict[object, list[IndexedLetter]] = {}
    for letter in letters:
        groups.setdefault(letter.event_id or letter.key, []).append(letter)
    return groups.values()


@asynccontextmanager
async def open_replay(settings: Settings, index: DeadLetterIndex, by: str) -> AsyncIterator[LetterReplay]:
    """Opens a replay with the Kafka topics of `settings`, for several runs, and closes its clients after the block."""
    event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-replay")
    try:
        with RecordLookup(settings.kafka, settings.dead_topic) as dead_topic:
            yield LetterReplay(letters=index, dead_topic=dead_topic, event_log=event_log, by=by)
    finally:
        event_log.close()


async def replay_letters(
    settings: Settings,
    index: DeadLetterIndex,
    letters: list[IndexedLetter],
    rate: RateLimit,
    by: str,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Replay `letters` with the Kafka topics of `settings`. Raises the same errors as LetterReplay.run."""
    async with open_replay(settings, index, by) as replay:
        return await replay.run(letters, rate, progress)
