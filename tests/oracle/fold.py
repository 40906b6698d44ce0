"""The expected content of the tables: applies the rules to the whole log in memory, one record after another.

There are no batches, no store and no clock. An error caused by batching, crashes, retries or concurrent workers
appears as a difference between this result and the tables (tests/chaos/checker.py).

Three things are not in the log and therefore not in the fold: when a waiting event is checked again (`settle` checks
at the end), the timers of the waiting room, and when the scheduler stored that a timer has fired (here: at its event).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from schemas.effects import Order
from schemas.errors import MalformedEvent, NotKnownYet, Poison
from schemas.known import Known
from schemas.record import Record, Source
from schemas.settings import Config
from schemas.statuses import TimerStatus
from schemas.timer import TimerDue, timer_event, timer_event_type
from schemas.verdict import SETTLED
from sinks.postgres.outboxes import BY_EFFECT, OUTBOXES, Outbox
from streams.apply import apply, decide
from streams.decode import Decoded, EventSummary, decode, describe
from streams.rules.registry import Rule

_UNFORESEEN = "Unforeseen"


@dataclass(frozen=True, slots=True)
class FoldedEvent:
    """The result of one event: its outcome as in the ledger, and the log position where it was decided."""

    envelope: EventSummary
    outcome: str
    partition: int
    offset: int
    error_class: str = ""
    """The class of the error; set only if the outcome is `dead`."""


@dataclass(slots=True)
class Fold:
    """Takes records in log order (within each partition) and contains their result."""

    config: Config
    rules: Mapping[str, Rule]
    ledger: dict[str, FoldedEvent] = field(default_factory=dict)
    """Results by event id."""
    orders: dict[Outbox, dict[str, tuple[EventSummary, Order]]] = field(
        default_factory=lambda: {outbox: {} for outbox in OUTBOXES}
    )
    """Orders of each outbox by key: the first event that ordered the row, and the order."""
    fired: set[str] = field(default_factory=set)
    """Keys of the timers with an event in the log."""
    waited: set[str] = field(default_factory=set)
    """Ids of events that had to wait. Which delivery or check applied them depends on batches and time."""
    nameless: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset of records without an event id. They have no ledger row."""
    deliveries: int = 0
    known: Known = field(init=False)
    _waiting: dict[str, tuple[Record, Decoded]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = Known(self.config)

    def take(self, record: Record) -> None:
        """Decide one record, unless its event is settled."""
        self.deliveries += 1
        try:
            decoded = decode(record.value, self.rules)
        except MalformedEvent as error:
            self._reject(record, error)
            return
        self._note_fired(decoded, record)
        judged = self.ledger.get(decoded.envelope.id)
        if judged is None or judged.outcome not in SETTLED:
            self._decide(record, decoded)

    def take_all(self, records: Iterable[Record]) -> Fold:
        for record in records:
            self.take(record)
        return self

    def settle(self) -> None:
        """Check the waiting events again until none of them can be applied."""
        before = -1
        while len(self._waiting) != before:
            before = len(self._waiting)
            for record, decoded in list(self._waiting.values()):
                self._decide(record, decoded)

    def _reject(self, record: Record, error: MalformedEvent) -> None:
        envelope = describe(record.value)
        if envelope is None:
            self.nameless.append((record.partition, record.offset))
        elif (judged := self.ledger.get(envelope.id)) is None or judged.outcome not in SETTLED:
            self._judge(envelope, "dead", record, type(error).__name__)

    def _decide(self, record: Record, decoded: Decoded) -> None:
        envelope, event, rule = decoded.envelope, decoded.event, decoded.rule
        self._waiting.pop(envelope.id, None)
        if event is None or rule is None:
            self._judge(envelope, "ignored", record)
            return
        try:
            effects = decide(rule, event, self.known, rule.refer(event))
        except NotKnownYet:
            self._waiting[envelope.id] = (record, decoded)
            self.waited.add(envelope.id)
            self._judge(envelope, "waiting", record)
            return
        except Poison as error:
            self._judge(envelope, "dead", record, type(error).__name__)
            return
        except Exception:  # noqa: BLE001  # as in process.py: a pure rule raises the same error on every try
            self._judge(envelope, "dead", record, _UNFORESEEN)
            return
        outcome = apply(effects, event, self.known)
        for order in outcome.orders:
            self.orders[BY_EFFECT[type(order)]].setdefault(order.key, (envelope, order))
        self._judge(envelope, "applied" if outcome.stale is None else "stale", record)

    def _judge(self, envelope: EventSummary, outcome: str, record: Record, error_class: str = "") -> None:
        self.ledger[envelope.id] = FoldedEvent(envelope, outcome, record.partition, record.offset, error_class)

    def _note_fired(self, decoded: Decoded, record: Record) -> None:
        """Mark the timer as fired: its event is in the log. This does not depend on a rule for it."""
        if record.headers.get("source") != Source.TIMER or not decoded.envelope.type.startswith(timer_event_type("")):
            return
        due = TimerDue.model_validate(orjson.loads(record.value or b"")["data"]["object"])
        timer = self.known.timer(due.timer_key)
        if timer is not None and timer_event(timer)["id"] == decoded.envelope.id:
            self.fired.add(timer.timer_key)
            if timer.status is TimerStatus.PENDING:
                self.known.save(replace(timer, status=TimerStatus.FIRED))
