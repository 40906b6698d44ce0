"""Beside the flow: the log once more through the real `process`, into a database where nothing acts on it.

    record ─▶ (a timer's: note that it fired) ─▶ process ─▶ rows, and outboxes that nobody will empty

What takes the place of the outside world: the time is the records', so that a verdict does not hang on when this runs;
no event waits too long, since how long it waited was the worker's clock's to say; dead letters are indexed and not
published; what a scheduler noted is noted as its record comes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson

from eventlog.dead_letters import DeadLetterPublisher, RecordPosition
from schemas.dead_letter import DeadLetter
from schemas.errors import Transient
from schemas.known import Known
from schemas.record import Record, Source
from schemas.references import References
from schemas.settings import Config
from schemas.state import Timer, TimerStatus
from schemas.timer import timer_event, timer_event_type
from schemas.timing import pause
from schemas.verdict import outcome_of
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from streams.brake import Brake
from streams.item import Attempt
from streams.process import Processor
from streams.rules.registry import Rule

_TRIES = 8
_FOR_EVER_H = 1_000_000
_ANY_NUMBER = 10**12


class NullDeadLetters(DeadLetterPublisher):
    """Letters are on the dead-letter topic already."""

    def __init__(self) -> None:
        """No producer."""

    async def publish(self, letter: DeadLetter) -> RecordPosition:  # noqa: ARG002  # the signature is its parent's
        return RecordPosition(-1, -1)

    def close(self) -> None:
        """Nothing to close."""


@dataclass(slots=True)
class LogReapplier:
    """Takes the log's records in order (eventlog/history.py). `store` is to be a SuppressingStore."""

    store: Store
    processor: Processor
    outcomes: Counter[str] = field(default_factory=Counter)
    _now: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @classmethod
    def on(cls, store: Store, rules: Mapping[str, Rule], config: Config, *, group: str, code: str) -> LogReapplier:
        patient = config.model_copy(
            update={"rules": config.rules.model_copy(update={"waiting_limit_hours": _FOR_EVER_H})}
        )
        processor = Processor(
            store=store,
            dead_letters=NullDeadLetters(),
            rules=rules,
            config=patient,
            group=group,
            code_version=code,
            clock=lambda: again._now,
            brake=Brake(let_die=_ANY_NUMBER),
        )
        again = cls(store, processor)
        return again

    async def take(self, records: Sequence[Record]) -> None:
        """One batch. Raises Transient once it has lasted."""
        start = 0
        for at, record in enumerate(records):
            if _is_timer(record):
                await self._process(records[start:at])
                await self._note_fired(record)
                start = at
        await self._process(records[start:])

    async def settle(self, waiting: Sequence[Record], *, is_last_look: bool = False) -> int:
        """Looks once more at what waits; how many of them wait no longer. At last, without what can be done without."""
        before = self.outcomes["waiting"]
        self.processor = replace(self.processor, is_last_look=is_last_look)
        await self._process(waiting)
        return len(waiting) - (self.outcomes["waiting"] - before)

    async def _process(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._now = max(self._now, datetime.fromtimestamp(records[-1].timestamp, UTC))
        attempt = Attempt()
        while True:
            try:
                verdicts = await self.processor.process(records, attempt)
            except Transient:
                if attempt.number >= _TRIES:
                    raise
                await asyncio.sleep(pause(attempt.number))
                attempt.number += 1
            else:
                self.outcomes.update(map(outcome_of, verdicts))
                return

    async def _note_fired(self, record: Record) -> None:
        """As the scheduler did, if the timer still stands as it did when it fired."""
        try:
            event = orjson.loads(record.value or b"null")
            event_id, key = str(event["id"]), str(event["data"]["object"]["id"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return  # from someone else's scheduler; `process` says what it makes of it
        async with self.store.transaction([]) as transaction:
            rows = await transaction.load(References(timers={key}))
            known = Known(self.processor.config, rows)
            timer = known.timer(key)
            if isinstance(timer, Timer) and _has_fired(timer, event_id):
                known.save(replace(timer, status=TimerStatus.FIRED))
                await transaction.flush(Flush(known))


def _is_timer(record: Record) -> bool:
    headers = record.headers
    return headers.get("source") == Source.TIMER and headers.get("type", "").startswith(timer_event_type(""))


def _has_fired(timer: Timer, event_id: str) -> bool:
    return timer.status is TimerStatus.PENDING and timer_event(timer)["id"] == event_id
