"""Processes a batch of records and returns a verdict for each (docs/decisions.md 4).

    decode ─▶ load stored rows ─▶ rules, event by event ─▶ one transaction: ledger, state, mails, timers
       │             │                      │                        │
    Dead          Duplicate   Stale, Waiting, Dead, Ignored   refused: halve until one record is left

The transaction takes one lock per partition of the batch. So a worker that lost its partition without noticing and the
partition's new owner run one after the other; the second one finds the events in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eventlog.retention import KafkaKeeps
from schemas.effects import Effect, Erase, Order
from schemas.errors import (
    CannotBury,
    Conflict,
    DatabaseBehind,
    NeverKnown,
    NotKnownYet,
    NotReferred,
    Poison,
    StoreRefused,
    Transient,
    Unforeseen,
    Unsettled,
)
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.record import Record
from schemas.references import References
from schemas.settings import Config
from schemas.state import Organization
from schemas.statuses import TimerStatus
from schemas.storable import reason_text
from schemas.timer import retry_key
from schemas.timing import Clock
from schemas.verdict import SETTLED, Applied, Dead, Duplicate, Ignored, Stale, Verdict, Waiting
from sinks.postgres.outboxes import BY_EFFECT, OutboxRow
from sinks.postgres.rows import DeadLetterRow, ErasureRow, Flush
from sinks.postgres.store import Store, Transaction
from streams.apply import apply, decide, decide_more
from streams.barring import bar, find_erased, owned
from streams.brake import Brake, BrakeTripped
from streams.decode import check_mode, decode, describe
from streams.feed import notifications, timers_of_feed
from streams.flush import bare_ledger_row, ledger_row, origin_of, revived_id
from streams.item import Attempt, Item, id_of, is_unread, judged_for_brake
from streams.letters import (
    DeadLetters,
    Failure,
    bare_index_row,
    dead,
    event_id_of,
    index_row,
    letter_of,
    type_of,
)
from streams.positions import Place, Positions
from streams.rules.registry import OTHER, Rule
from streams.waiting import retry_timer, stay_of
from streams.withholding import find_imported, is_made_by_import, taken_over_at, why_withheld

_UNFORESEEN_TRIES = 3
_CONFLICT_TRIES = 6
"""After about six seconds the other transaction has committed; a batch that still conflicts conflicts with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """Processes batches. `rules` are those of the worker's streams; dead letters name the consumer group `group`."""

    store: Store
    dead_letters: DeadLetters
    rules: Mapping[str, Rule]
    config: Config
    group: str
    code_version: str
    clock: Clock | None = None
    """None: Postgres' clock, which decides when mails, calls and timers are due (docs/decisions.md). A rebuild has its
    own."""
    kafka_keeps: KafkaKeeps = field(default_factory=KafkaKeeps)
    brake: Brake = field(default_factory=Brake)
    positions: Positions | None = None
    """The group's positions. None for a rebuild and other one-off runs."""
    bury: frozenset[tuple[str, int, int]] = frozenset()
    """Records (topic, partition, offset) that are dead-lettered without being read: an operator's last resort."""
    is_last_look: bool = False
    """Apply waiting events now, without the missing object, if their rule allows it (recovery/rebuild/apply_log.py)."""

    async def process(self, records: Sequence[Record], attempt: Attempt | None = None) -> list[Verdict]:
        """Applies the records in their order and returns a verdict for each.

        Raises BrakeTripped instead of dead-lettering more events than the brake allows; earlier records are committed.
        Raises Transient if the rest of the batch could not be committed. The caller retries the whole batch with the
        same `attempt`; records that are already committed are then duplicates.
        """
        return await self._process(records, attempt or Attempt())

    async def _process(self, records: Sequence[Record], attempt: Attempt) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while rest := records[len(verdicts) :]:  # again after an erasure (the last in its transaction) or `safe`
            try:
                verdicts += await self._transact(rest, attempt)
            except BrakeTripped as tripped:
                if not tripped.safe:
                    raise
                verdicts += await self._process(rest[: tripped.safe], attempt)
            except (DatabaseBehind, CannotBury):
                raise
            except Exception as error:
                # An unforeseen error is retried, then the batch is halved down to one record, which is dead-lettered.
                if isinstance(error, Transient) and not is_permanent(error, attempt):
                    raise
                if not isinstance(error, Poison | Transient) and attempt.number < _UNFORESEEN_TRIES:
                    raise Unsettled(f"{type(error).__name__}: {error}") from error
                if len(rest) == 1:
                    return verdicts + await self._dead_letter(rest[0], error, attempt)
                middle = len(rest) // 2
                verdicts += await self._process(rest[:middle], attempt)
                verdicts += await self._process(rest[middle:], attempt)
        return verdicts

    async def _transact(self, records: Sequence[Record], attempt: Attempt) -> list[Verdict]:
        """Returns the verdicts on all records, or on those up to an erasure, which is the last in its transaction."""
        items = [self._decoded(record) for record in records]
        locks = sorted({(record.topic, record.partition) for record in records})
        async with self.store.transaction(locks) as transaction:
            until = await self._check_positions(transaction, records)
            await self._drop_duplicates(items, transaction)
            known = await self._load(items, transaction)
            erased = await find_erased(items, known, transaction)
            now = await self._now(transaction)
            for at, item in enumerate(items):
                if item.verdict is None:
                    item.verdict = self._decide(item, known, now, attempt.number)
                bar(item, known, erased)
                if item.erase is not None:
                    del items[at + 1 :]
            for item in items:
                if isinstance(item.verdict, Waiting):  # the missing object may come later in this batch
                    item.verdict = self._decide(item, known, now, attempt.number)
                _update_retry_timer(item, known, now)
            self.brake.check(judged := judged_for_brake(items))
            await self._write(items, known, transaction, attempt, until)
        self._applied(items, attempt)
        self.brake.passed(judged)
        return [item.verdict for item in items if item.verdict is not None]

    async def _now(self, transaction: Transaction) -> datetime:
        return self.clock() if self.clock is not None else await transaction.now()

    async def _check_positions(self, transaction: Transaction, records: Sequence[Record]) -> Mapping[Place, int]:
        return await self.positions.check(transaction, records) if self.positions is not None else {}

    def _applied(self, items: Sequence[Item], attempt: Attempt) -> None:
        if self.positions is not None:
            self.positions.applied(_reached(items, attempt))

    def _decoded(self, record: Record) -> Item:
        item = Item(record)
        if item.place in self.bury:
            item.verdict = Dead(Unforeseen.__name__, "buried by an operator", "store")
            return item
        try:
            decoded = decode(record.value, self.rules)
            check_mode(decoded, self.config.mode)
            item.decoded = decoded
        except Exception as error:  # noqa: BLE001  # decoding is pure, so every retry would raise the same
            item.verdict = dead(error, "decode")
        return item

    async def _drop_duplicates(self, items: Sequence[Item], transaction: Transaction) -> None:
        # Decoded records go first: malformed bytes with an event's id must not make the event itself a duplicate.
        known = [(event_id, item) for item in sorted(items, key=is_unread) if (event_id := id_of(item)) is not None]
        ledger = await transaction.seen([event_id for event_id, _ in known])
        here: set[str] = set()
        for event_id, item in known:
            outcome = ledger.get(event_id)
            if outcome in SETTLED or event_id in here:
                item.verdict = Duplicate()
            else:
                item.earlier_outcome = outcome
            here.add(event_id)
        await find_imported(known, transaction)

    async def _load(self, items: Sequence[Item], transaction: Transaction) -> Known:
        references = References(timers_of=timers_of_feed(self.config))
        for item in items:
            if item.verdict is None and item.decoded and item.decoded.rule and item.decoded.event:
                item.references = item.decoded.rule.refer(item.decoded.event)
                references.update([item.references, *(one.references(event) for one, event in item.decoded.more)])
                if item.earlier_outcome:
                    references.timers.add(retry_key(item.decoded.event.id))
        return Known(self.config, await transaction.load(references))

    def _decide(self, item: Item, known: Known, now: datetime, tries: int) -> Verdict:
        if item.decoded is None or item.decoded.rule is None or item.decoded.event is None:
            return Ignored()
        event = item.decoded.event
        try:
            effects = self._effects(item, item.decoded.rule, event, known, now)
            if not isinstance(effects, list):
                return effects
            added = decide_more(item.decoded.more, known)
        except Poison as error:
            return dead(error, "decide")
        except NotReferred as error:
            # Another transaction may have joined rows between two statements of the load: another load sees them whole.
            if tries < _UNFORESEEN_TRIES:
                raise Unsettled(f"{type(error).__name__}: {error}") from error
            return dead(error, "decide")
        except Exception as error:  # noqa: BLE001  # a rule is pure, so every retry would raise the same
            return dead(error, "decide")
        taken_over = taken_over_at(item)
        outcome = apply([*effects, *added], event, known, taken_over_at=taken_over)
        item.orders, item.erase, item.customer_id = outcome.orders, outcome.erase, outcome.customer_id
        item.written = outcome.written
        if changes := notifications(event, outcome, known, is_imported=taken_over is not None):
            queued = apply(changes, event, known, taken_over_at=taken_over)
            item.orders, item.written = item.orders + queued.orders, item.written + queued.written
        return Applied(outcome.remark) if outcome.stale is None else Stale(outcome.stale)

    def _effects(
        self, item: Item, rule: Rule, event: Event[Any], known: Known, now: datetime
    ) -> list[Effect] | Waiting | Dead:
        """Returns the effects of the project's rule, or the verdict on an event with a missing object."""
        try:
            return decide(rule, event, known, item.references)
        except NotKnownYet as error:
            is_final = is_made_by_import(item) and error.at_last is not None
            if not is_final and (verdict := self._wait(event, error, known, now)) is not None:
                return verdict
            return list(error.at_last or ())

    def _wait(self, event: Event[Any], missed: NotKnownYet, known: Known, now: datetime) -> Waiting | Dead | None:
        """Returns the verdict on an event with a missing object; None if it is applied without it (`at_last`)."""
        hours = self.config.rules.waiting_limit_hours
        until = stay_of(known.timer(retry_key(event.id)), now).until(now, timedelta(hours=hours))
        if (until is None or self.is_last_look) and missed.at_last is not None:
            return None
        if until is None:
            return dead(NeverKnown(f"still unknown after {hours} h: {missed}"), "decide")
        return Waiting(until, str(missed))

    async def _write(
        self,
        items: Sequence[Item],
        known: Known,
        transaction: Transaction,
        attempt: Attempt,
        until: Mapping[Place, int],
        *,
        is_bare: bool = False,
    ) -> None:
        """Writes the verdicts and effects. `is_bare` leaves out of the rows what came from the events."""
        now = await self._now(transaction)
        if any(isinstance(item.verdict, Dead) for item in items):
            braked = await transaction.braked(self.group, self.code_version)
            if braked is not None:
                raise BrakeTripped(f"another worker of {self.group} has stopped: {braked}", ())
        letters = [
            await self._publish(item, item.verdict, attempt, now) for item in items if isinstance(item.verdict, Dead)
        ]
        ledger = [row for item in items if (row := ledger_row(item, attempt, now, self._stream_of_item(item)))]
        if is_bare:
            ledger, letters = [bare_ledger_row(row) for row in ledger], [bare_index_row(letter) for letter in letters]
        await transaction.flush(
            Flush(
                known=known,
                ledger=ledger,
                outbox=[self._outbox_row(order, item, now) for item in items for order in item.orders],
                dead_letters=letters,
                group=self.group,
                reached=_reached(items, attempt) if self.positions is not None else {},
                reread=[origin_of(item).event_id for item in items if _is_reread(item, until)],
                revived=[event_id for item in items if (event_id := revived_id(item)) is not None],
                **owned(items, now, is_bare=is_bare),
                erasure=next((self._erasure_row(item.erase, item, now) for item in items if item.erase), None),
            )
        )

    def _outbox_row(self, order: Order, item: Item, now: datetime) -> OutboxRow:
        """Returns the row of an order. What must not leave is stored all the same: its key is used up."""
        row: OutboxRow = BY_EFFECT[type(order)].to_row(order, origin_of(item), now)
        reason = why_withheld(order, item, self.config.mail)
        return row if reason is None else replace(row, status="withheld", last_error=reason)

    def _erasure_row(self, erase: Erase, item: Item, now: datetime) -> ErasureRow:
        return ErasureRow(
            event_id=origin_of(item).event_id,
            account=erase.account,
            customer_id=erase.customer_id,
            organization_id=Organization.id_of(erase.account, erase.customer_id),
            asked_at=erase.asked_at,
            erased_at=now,
            kafka_until=now + self.kafka_keeps.events if self.kafka_keeps.events is not None else None,
            dead_letters_kept=self.kafka_keeps.dead_letters,
            by=erase.by,
            reason=erase.reason,
        )

    async def _publish(self, item: Item, verdict: Dead, attempt: Attempt, now: datetime) -> DeadLetterRow:
        """Publishes the letter before its index row and the ledger's `dead` are committed.

        A crash in between leaves an extra letter, never a ledger entry without a letter.
        """
        first = attempt.first_failed_at.setdefault(item.place, now)
        letter = letter_of(
            item.record,
            verdict,
            Failure(attempts=attempt.number, first_failed_at=first, last_failed_at=now),
            stream=self._stream_of(type_of(item.record)),
            group=self.group,
            code_version=self.code_version,
        )
        place = attempt.published.get(item.place)
        if place is None:
            place = attempt.published[item.place] = await self.dead_letters.publish(letter)
        return index_row(letter, place, item.record)

    def _stream_of(self, type_: str) -> str:
        return self.rules[type_].stream if type_ in self.rules else OTHER

    def _stream_of_item(self, item: Item) -> str:
        """Returns the stream of the item's type, also if the event cannot be decoded. A thin event has none."""
        if item.decoded is not None:
            return item.decoded.rule.stream if item.decoded.rule else OTHER
        envelope = describe(item.record.value)
        return self._stream_of(envelope.type) if envelope else OTHER

    async def _dead_letter(self, record: Record, error: Exception, attempt: Attempt) -> list[Verdict]:
        """Dead-letters a record that the store refuses, in a transaction of its own.

        If the store refuses the rows that describe the record, too, rows without its values are written. Raises
        CannotBury if not even that succeeds, BrakeTripped, Transient.
        """
        try:
            try:
                return await self._bury(record, dead(error, "store"), attempt)
            except StoreRefused as refused:
                return await self._bury(record, dead(refused, "store"), attempt, is_bare=True)
        except (BrakeTripped, DatabaseBehind, Transient):
            raise
        except Exception as left:
            place = (record.topic, record.partition, record.offset)
            raise CannotBury(place, event_id_of(record), reason_text(f"{type(left).__name__}: {left}")) from left

    async def _bury(self, record: Record, verdict: Dead, attempt: Attempt, *, is_bare: bool = False) -> list[Verdict]:
        item = self._decoded(record)
        async with self.store.transaction([(record.topic, record.partition)]) as transaction:
            until = await self._check_positions(transaction, [record])
            await self._drop_duplicates([item], transaction)
            if item.verdict is None or isinstance(item.verdict, Dead):
                item.verdict = verdict
                self.brake.check(judged_for_brake([item]))
                await self._write([item], Known(self.config), transaction, attempt, until, is_bare=is_bare)
            elif self.positions is not None:
                for topic, reached in _reached([item], attempt).items():
                    await transaction.advance(self.group, topic, reached)
        self._applied([item], attempt)
        self.brake.passed(judged_for_brake([item]))
        return [item.verdict]


def _reached(items: Sequence[Item], attempt: Attempt) -> dict[str, dict[int, int]]:
    """Returns the next offset to apply after these items, by topic and partition."""
    reached: dict[str, dict[int, int]] = {}
    for item in items:
        topic, partition, offset = item.place
        last, end = attempt.ends.get((topic, partition), (-1, -1))
        reached.setdefault(topic, {})[partition] = end if offset == last else offset + 1
    return reached


def _is_reread(item: Item, until: Mapping[Place, int]) -> bool:
    return bool(item.orders) and item.record.offset < until.get(item.place[:2], 0)


def is_permanent(error: Transient, attempt: Attempt) -> bool:
    """Whether retrying does not help: a conflict that remains after `_CONFLICT_TRIES` tries."""
    return isinstance(error, Conflict) and attempt.number >= _CONFLICT_TRIES


def _update_retry_timer(item: Item, known: Known, now: datetime) -> None:
    """Sets the retry timer of a waiting event; finishes the timer of an event that no longer waits."""
    event = item.decoded.event if item.decoded else None
    if event is None or isinstance(item.verdict, Duplicate):
        return
    timer = known.timer(retry_key(event.id))
    if isinstance(item.verdict, Waiting):
        known.save(retry_timer(event, stay_of(timer, now), item.verdict.until))
    elif timer is not None:
        known.save(replace(timer, status=TimerStatus.DONE))
