"""The one place with a story: a batch of records in, a verdict for each out (design.md 4).

    decode ─▶ load what is known ─▶ rules, event by event ─▶ one transaction: ledger, state, mails, timers
       │              │                      │                        │
    Dead           Duplicate   Stale, Waiting, Dead, Ignored  refused: halve until the poison stands alone

The transaction takes one lock per partition of the batch. So a worker that lost its partition without noticing, and
the worker that has it now, take turns; whichever comes second finds the events in the ledger.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eventlog.dead_letters import DeadLetterPublisher
from eventlog.retention import KafkaKeeps
from schemas.dead_letter import DeadLetter
from schemas.effects import Erase
from schemas.errors import Conflict, MalformedEvent, NeverKnown, NotKnownYet, Poison, Transient, Unforeseen, Unsettled
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.record import Record
from schemas.references import References
from schemas.settings import Config
from schemas.state import Organization, TimerStatus
from schemas.timer import retry_key
from schemas.timing import Clock, utc_now
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Verdict, Waiting
from sinks.postgres.rows import DeadLetterRow, ErasureRow, Flush
from sinks.postgres.store import Store, Transaction
from streams.apply import apply
from streams.brake import Brake, BrakeTripped
from streams.decode import decode, describe
from streams.flush import _call_row, _clean, _email_row, _export_row, _ledger_row, _origin, _revived
from streams.item import Attempt, Item, _id_of, _is_unread
from streams.rules.registry import Rule
from streams.waiting import retry_timer, stay_of

OTHER = "other"
"""The stream of the types that no rule asks for."""


_SETTLED = {"applied", "ignored", "stale"}
"""Outcomes in the ledger that make a further delivery a duplicate. Waiting and dead events may be tried again."""


_TRIES_OF_THE_UNFORESEEN = 3
_TRIES_OF_A_CONFLICT = 6
"""Whoever was first has committed long before: what still collides, after some six seconds, collides with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """Applies batches. `rules` are those of the worker's streams; `group` names the consumer group in dead letters."""

    store: Store
    dead_letters: DeadLetterPublisher
    rules: Mapping[str, Rule]
    config: Config
    group: str
    code_version: str
    clock: Clock = utc_now
    kafka_keeps: KafkaKeeps = field(default_factory=KafkaKeeps)
    brake: Brake = field(default_factory=Brake)
    is_last_look: bool = False
    """Whether what waits, and can do without what it misses, is to do so now (recovery/rebuild/apply_log.py)."""

    async def process(self, records: Sequence[Record], attempt: Attempt | None = None) -> list[Verdict]:
        """Applies the records in their order and returns a verdict for each.

        Raises BrakeTripped before more is dead-lettered than the brake allows; what came before is committed.
        Raises Transient when nothing of the (rest of the) batch could be committed: the caller tries again, with the
        same `attempt`. Records that were committed before come out as duplicates then.
        """
        attempt = attempt or Attempt()
        return await self._process(records, attempt)

    async def _process(self, records: Sequence[Record], attempt: Attempt) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while rest := records[len(verdicts) :]:  # again only behind an erasure
            try:
                verdicts += await self._transact(rest, attempt)
            except BrakeTripped as tripped:
                if not tripped.safe:
                    raise
                verdicts += await self._process(rest[: tripped.safe], attempt)
            except Exception as error:
                # The verdict: what nobody foresaw is tried again, then halved until the record stands alone, then dead.
                if isinstance(error, Transient) and not is_permanent(error, attempt):
                    raise
                if not isinstance(error, Poison | Transient) and attempt.number < _TRIES_OF_THE_UNFORESEEN:
                    raise Unsettled(f"{type(error).__name__}: {error}") from error
                if len(rest) == 1:
                    return verdicts + await self._bury(rest[0], error, attempt)
                middle = len(rest) // 2
                verdicts += await self._process(rest[:middle], attempt)
                verdicts += await self._process(rest[middle:], attempt)
        return verdicts

    async def _transact(self, records: Sequence[Record], attempt: Attempt) -> list[Verdict]:
        """Verdicts on all the records, or up to an erasure: that is the last in its transaction."""
        items = [self._decoded(record) for record in records]
        locks = sorted({(record.topic, record.partition) for record in records})
        async with self.store.transaction(locks) as transaction:
            await self._drop_duplicates(items, transaction)
            known = await self._load(items, transaction)
            now = self.clock()
            for at, item in enumerate(items):
                if item.verdict is None:
                    item.verdict = self._decide(item, known, now)
                if item.erase is not None:
                    del items[at + 1 :]
            for item in items:
                if isinstance(item.verdict, Waiting):  # what it misses may have come behind it in this very batch
                    item.verdict = self._decide(item, known, now)
                _keep_waiting_room(item, known, now)
            self.brake.check(verdicts_for_brake(items))
            await self._write(items, known, transaction, attempt)
        self.brake.passed(verdicts_for_brake(items))
        return [item.verdict for item in items if item.verdict is not None]

    def _decoded(self, record: Record) -> Item:
        try:
            return Item(record, decoded=decode(record.value, self.rules))
        except MalformedEvent as error:
            return Item(record, verdict=_dead(error, "decode"))

    async def _drop_duplicates(self, items: Sequence[Item], transaction: Transaction) -> None:
        # What can be read goes first: bytes that only name an event must not pass for it.
        known = [(event_id, item) for item in sorted(items, key=_is_unread) if (event_id := _id_of(item)) is not None]
        ledger = await transaction.seen([event_id for event_id, _ in known])
        here: set[str] = set()
        for event_id, item in known:
            outcome = ledger.get(event_id)
            if outcome in _SETTLED or event_id in here:
                item.verdict = Duplicate()
            else:
                item.came_before = outcome
            here.add(event_id)

    async def _load(self, items: Sequence[Item], transaction: Transaction) -> Known:
        references = References()
        for item in items:
            if item.verdict is None and item.decoded and item.decoded.rule and item.decoded.event:
                references.update([item.decoded.rule.refer(item.decoded.event)])
                if item.came_before:
                    references.timers.add(retry_key(item.decoded.event.id))
        return Known(self.config, await transaction.load(references))

    def _decide(self, item: Item, known: Known, now: datetime) -> Verdict:
        if item.decoded is None or item.decoded.rule is None or item.decoded.event is None:
            return Ignored()
        event = item.decoded.event
        try:
            effects = item.decoded.rule.decide(event, known)
        except NotKnownYet as error:
            waits = self._wait(event, error, known, now)
            if waits is not None:
                return waits
            effects = list(error.at_last or ())
        except Poison as error:
            return _dead(error, "decide")
        except Exception as error:  # noqa: BLE001  # a rule is pure: what it raises once it raises always
            return _dead(error, "decide")
        outcome = apply(effects, event, known)
        item.emails, item.calls, item.exports = outcome.emails, outcome.calls, outcome.exports
        item.erase, item.customer_id = outcome.erase, outcome.customer_id
        return Applied() if outcome.stale is None else Stale(outcome.stale)

    def _wait(self, event: Event[Any], missed: NotKnownYet, known: Known, now: datetime) -> Waiting | Dead | None:
        """None: the event waits no longer, and does without what it misses."""
        hours = self.config.rules.waiting_limit_hours
        until = stay_of(known.timer(retry_key(event.id)), now).until(now, timedelta(hours=hours))
        if (until is None or self.is_last_look) and missed.at_last is not None:
            return None
        if until is None:
            return _dead(NeverKnown(f"waited {hours} h for what never became known: {missed}"), "decide")
        return Waiting(until, str(missed))

    async def _write(self, items: Sequence[Item], known: Known, transaction: Transaction, attempt: Attempt) -> None:
        now = self.clock()
        if any(isinstance(item.verdict, Dead) for item in items):
            braked = await transaction.braked(self.group, self.code_version)
            if braked is not None:
                raise BrakeTripped(f"another worker of {self.group} has stopped: {braked}", ())
        letters = [
            await self._publish(item, item.verdict, attempt, now) for item in items if isinstance(item.verdict, Dead)
        ]
        await transaction.flush(
            Flush(
                known=known,
                ledger=[row for item in items if (row := _ledger_row(item, attempt, now))],
                emails=[_email_row(email, item, now) for item in items for email in item.emails],
                calls=[_call_row(call, item, now) for item in items for call in item.calls],
                exports=[_export_row(order, item, now) for item in items for order in item.exports],
                dead_letters=letters,
                revived=[event_id for item in items if (event_id := _revived(item)) is not None],
                erasure=next((self._erasure_row(item.erase, item, now) for item in items if item.erase), None),
            )
        )

    def _erasure_row(self, erase: Erase, item: Item, now: datetime) -> ErasureRow:
        keeps = self.kafka_keeps
        return ErasureRow(
            event_id=_origin(item)[0],
            account=erase.account,
            customer_id=erase.customer_id,
            organization_id=Organization.id_of(erase.account, erase.customer_id),
            asked_at=erase.asked_at,
            erased_at=now,
            kafka_until=now + keeps.events if keeps.events is not None else None,
            dead_letters_kept=keeps.dead_letters,
        )

    async def _publish(self, item: Item, verdict: Dead, attempt: Attempt, now: datetime) -> DeadLetterRow:
        """The letter first, its index and the ledger's `dead` after: a crash between leaves a letter too many, never
        an event that is said to be kept and is not."""
        first = attempt.first_failed_at.setdefault(item.place, now)
        letter = self._letter(item.record, verdict, attempt.number, first, now)
        place = attempt.published.get(item.place)
        if place is None:
            place = attempt.published[item.place] = await self.dead_letters.publish(letter)
        return DeadLetterRow(
            consumer_group=letter.consumer_group,
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            event_id=letter.event_id or None,
            type=letter.type or None,
            stream=letter.stream,
            account=letter.account,
            customer_id=letter.customer_id,
            stage=letter.stage,
            error_class=letter.error_class,
            message=letter.message,
            attempts=letter.attempts,
            first_failed_at=letter.first_failed_at,
            last_failed_at=letter.last_failed_at,
            code_version=letter.code_version,
            dead_partition=place.partition,
            dead_offset=place.offset,
            replay_of=_clean(item.record.headers.get("replay_of", "")) or None,
        )

    def _letter(self, record: Record, verdict: Dead, attempts: int, first: datetime, last: datetime) -> DeadLetter:
        envelope = describe(record.value)
        type_ = envelope.type if envelope else _clean(record.headers.get("type", ""))
        return DeadLetter(
            key=record.key,
            value=record.value,
            headers=record.raw_headers,
            event_id=envelope.id if envelope else _clean(record.headers.get("event_id", "")),
            type=type_,
            stream=self._stream_of(type_),
            account=envelope.account if envelope else _clean(record.headers.get("account", "")),
            customer_id=envelope.customer_id if envelope else None,
            error_class=verdict.error_class,
            message=verdict.reason,
            traceback=verdict.traceback,
            stage=verdict.stage,
            attempts=attempts,
            consumer_group=self.group,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            first_failed_at=first,
            last_failed_at=last,
            code_version=self.code_version,
        )

    def _stream_of(self, type_: str) -> str:
        rule = self.rules.get(type_)
        return rule.stream if rule else OTHER

    async def _bury(self, record: Record, error: Exception, attempt: Attempt) -> list[Verdict]:
        """Dead-letters a record that the store refuses, in a transaction with nothing else in it."""
        item = self._decoded(record)
        verdict = _dead(error, "store")
        async with self.store.transaction([(record.topic, record.partition)]) as transaction:
            await self._drop_duplicates([item], transaction)
            if item.verdict is None or isinstance(item.verdict, Dead):
                item.verdict = verdict
                self.brake.check(verdicts_for_brake([item]))
                await self._write([item], Known(self.config), transaction, attempt)
        self.brake.passed(verdicts_for_brake([item]))
        return [item.verdict]


def is_permanent(error: Transient, attempt: Attempt) -> bool:
    return isinstance(error, Conflict) and attempt.number >= _TRIES_OF_A_CONFLICT


def verdicts_for_brake(items: Sequence[Item]) -> list[Verdict]:
    """The verdicts, in their order, but for what was dead before: a replay in vain says nothing of a deploy."""
    return [
        Duplicate() if item.came_before == "dead" and isinstance(item.verdict, Dead) else item.verdict
        for item in items
        if item.verdict is not None
    ]


def _keep_waiting_room(item: Item, known: Known, now: datetime) -> None:
    """Sets the timer of an event that waits, and ends the one of an event that waits no longer."""
    event = item.decoded.event if item.decoded else None
    if event is None or isinstance(item.verdict, Duplicate):
        return
    timer = known.timer(retry_key(event.id))
    if isinstance(item.verdict, Waiting):
        known.save(retry_timer(event, stay_of(timer, now), item.verdict.until))
    elif timer is not None:
        known.save(replace(timer, status=TimerStatus.DONE))


def _dead(error: Exception, stage: str) -> Dead:
    """The verdict on an error. One that no rule foresaw is named so, and brings its traceback."""
    if isinstance(error, Poison):
        return Dead(type(error).__name__, str(error), stage)
    reason = f"{type(error).__name__}: {error}"
    return Dead(Unforeseen.__name__, reason, stage, "".join(traceback.format_exception(error)))
