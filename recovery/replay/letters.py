"""Events back onto the log: dead letters as they first stood there, or what the ledger, the log or Stripe has kept.

letter noted as in hand ─▶ appended, Kafka has it ─▶ marked `replayed` ─▶ (worker) settled: `resolved`

killed before the append    the letter is open: the next replay takes it again, and says that it was in hand
killed before the mark      the same; the log may have it twice: the ledger drops the second once one is applied,
                            and if it dies both times there are two letters, both naming the one replayed
killed after the mark       nothing: the log has it, and the worker closes the letter when it is settled
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from confluent_kafka import Message

from eventlog.append import EventAppender
from eventlog.entry import Entry, headers_of
from eventlog.lookup import RecordLookup
from schemas.dead_letter import PREFIX, original_headers
from schemas.ordering import ordering_key
from schemas.record import Headers, RecordHeaders, Source, decode_headers
from schemas.settings import Settings
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, KeptEvent

_CHUNK = 100
REPLAY_OF = "replay_of"


@dataclass(slots=True)
class ReplayReport:
    """What a replay did. `gone` are letters that neither the topic nor the ledger holds any more."""

    replayed: int = 0
    settled: int = 0
    """Closed without being appended: their events are settled."""
    from_ledger: list[str] = field(default_factory=list)
    """Events whose letter the topic has dropped: the ledger's JSON was appended, not the original bytes."""
    gone: list[str] = field(default_factory=list)
    resumed: int = 0
    """DeadLetterIndex that an earlier replay, which did not end, had in hand."""


class Rate:
    """So many a second at most, None for no limit."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._started_at: float | None = None
        self._done = 0

    @property
    def chunk(self) -> int:
        """How many at once keep the rate even."""
        return _CHUNK if self._per_second is None else max(1, min(_CHUNK, int(self._per_second)))

    async def wait(self, count: int) -> None:
        """Before `count` more."""
        if self._per_second is None:
            return
        if self._started_at is None:
            self._started_at = time.monotonic()
        await asyncio.sleep(max(0.0, self._started_at + self._done / self._per_second - time.monotonic()))
        self._done += count


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterReplay:
    """Replays letters in their events' order of the log. `by` is who asked for it."""

    letters: DeadLetterIndex
    dead_topic: RecordLookup
    event_log: EventAppender
    by: str

    async def run(
        self, found: Sequence[IndexedLetter], rate: Rate, progress: Callable[[int], None] = lambda _: None
    ) -> ReplayReport:
        """`found` as DeadLetterIndex.find orders it. Several letters of one event are one replay.

        Raises ReplayUnderWay, StoreUnavailable, LogUnavailable: what is not marked by then stays open, and to run it
        again goes on behind what is.
        """
        report = ReplayReport(
            resumed=sum(letter.status == "open" and letter.replay_begun_at is not None for letter in found)
        )
        async with self.letters.replaying():
            settled = await self.letters.close_settled([letter.event_id for letter in found if letter.event_id])
            groups = list(_by_event(letter for letter in found if letter.event_id not in settled))
            report.settled = len(settled)
            progress(sum(letter.event_id in settled for letter in found))
            for at in range(0, len(groups), rate.chunk):
                chunk = groups[at : at + rate.chunk]
                await rate.wait(len(chunk))
                await self._replay(chunk, report)
                progress(sum(map(len, chunk)))
        return report

    async def _replay(self, groups: Sequence[Sequence[IndexedLetter]], report: ReplayReport) -> None:
        entries: list[Entry] = []
        replayed: list[IndexedLetter] = []
        for letters in groups:
            entry = await asyncio.to_thread(self._entry, letters)
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

    def _entry(self, letters: Sequence[IndexedLetter]) -> Entry | None:
        """From the first of the event's letters that the topic still has."""
        for letter in letters:
            message = read_letter(self.dead_topic, letter)
            if message is not None and (value := message.value()) is not None:
                headers = replay_headers(
                    original_headers(headers_of(message)), _place_of(letter, self.dead_topic.topic)
                )
                return Entry(message.key(), value, headers)
        return None

    async def _from_ledger(self, letter: IndexedLetter) -> Entry | None:
        if letter.event_id is None:
            return None
        kept = (await self.letters.kept_events([letter.event_id])).get(letter.event_id)
        return kept_entry(kept, _place_of(letter, self.dead_topic.topic)) if kept is not None else None


def read_letter(dead_topic: RecordLookup, letter: IndexedLetter) -> Message | None:
    """The letter itself; None where the topic no longer has it, or (made anew) has another one there."""
    if letter.dead_place is None:
        return None
    message = dead_topic.read(*letter.dead_place)
    if message is None:
        return None
    names = decode_headers(headers_of(message))
    said = (names.get(f"{PREFIX}topic"), names.get(f"{PREFIX}partition"), names.get(f"{PREFIX}offset"))
    return message if said == (letter.topic, str(letter.partition), str(letter.offset)) else None


def replay_headers(original: Headers, replay_of: str) -> Headers:
    """The original headers, but for what says through which door the record comes now."""
    kept = tuple((name, value) for name, value in original if name not in ("source", REPLAY_OF))
    marked = (("source", Source.REPLAY.encode()), (REPLAY_OF, replay_of.encode()))
    return (*kept, *(marked if replay_of else marked[:1]))


def kept_entry(event: KeptEvent, replay_of: str = "") -> Entry | None:
    """What the ledger keeps of an event as a record; None where it keeps no payload."""
    if event.payload is None:
        return None
    headers = RecordHeaders(
        event_id=event.event_id,
        type=event.type,
        source=Source.REPLAY,
        account=event.account,
        livemode=event.livemode,
        api_version=event.api_version or "",
        endpoint=event.endpoint or "",
        received_at=(event.received_at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds"),
    )
    value = event.payload.encode()
    return Entry(ordering_key(orjson.loads(value)).encode(), value, replay_headers(headers.encode(), replay_of))


def _place_of(letter: IndexedLetter, dead_topic: str) -> str:
    """Where a letter stands, as people and headers write it; one that never had a place is named by its record's."""
    if letter.dead_place is None:
        return f"{letter.topic}/{letter.partition}/{letter.offset}"
    return f"{dead_topic}/{letter.dead_partition}/{letter.dead_offset}"


def _by_event(letters: Iterable[IndexedLetter]) -> Iterable[list[IndexedLetter]]:
    """DeadLetterIndex of one event together, in the place of the first; what has no id stands alone."""
    groups: dict[object, list[IndexedLetter]] = {}
    for letter in letters:
        groups.setdefault(letter.event_id or letter.key, []).append(letter)
    return groups.values()


async def replay_letters(
    settings: Settings,
    index: DeadLetterIndex,
    letters: list[IndexedLetter],
    rate: Rate,
    by: str,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Onto the log of these settings. Raises what LetterReplay.run raises."""
    event_log = EventAppender(settings.kafka_bootstrap, settings.events_topic, client_id="billing-replay")
    try:
        with RecordLookup(settings.kafka_bootstrap, settings.dead_topic) as dead_topic:
            work = LetterReplay(letters=index, dead_topic=dead_topic, event_log=event_log, by=by)
            return await work.run(letters, rate, progress)
    finally:
        event_log.close()
