"""Applies the records of the log to an empty database, with the same `process` as the worker, but without side effects.

    record ─▶ (timer event: mark its timer as fired) ─▶ process ─▶ rows, and outbox rows that no dispatcher claims

Differences from the worker: the clock is the records' timestamps, so verdicts do not depend on when the rebuild runs;
the waiting time of events is not limited, because it depends on the worker's clock; dead letters are indexed but not
published; timers are marked as fired when their record is read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson

from schemas.errors import Transient
from schemas.known import Known
from schemas.record import Record, Source
from schemas.references import References
from schemas.settings import Config
from schemas.state import Timer
from schemas.statuses import TimerStatus
from schemas.timer import timer_event, timer_event_type
from schemas.timing import pause
from schemas.verdict import outcome_of
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from streams.brake import Brake
from streams.item import Attempt
from streams.letters import NoDeadLetters
from streams.process import Processor
from streams.rules.registry import Rule

_TRIES = 8
_NO_LIMIT_H = 1_000_000
_NO_LIMIT = 10**12


@dataclass(slots=True)
class LogReapplier:
    """Applies the log's records in order (eventlog/history.py). `store` must be a SuppressingStore."""

    store: Store
    processor: Processor
    outcomes: Counter[str] = field(default_factory=Counter)
    _now: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @classmethod
    def on(cls, store: Store, rules: Mapping[str, Rule], config: Config, *, group: str, code: str) -> LogReapplier:
        patient = config.model_copy(
            update={"rules": config.rules.model_copy(update={"waiting_limit_hours": _NO_LIMIT_H})}
        )
        processor = Processor(
            store=store,
            dead_letters=NoDeadLetters(),
            rules=rules,
            config=patient,
            group=group,
            code_version=code,
            clock=lambda: reapplier._now,
            brake=Brake(let_die=_NO_LIMIT),
        )
        reapplier = cls(store, processor)
        return reapplier

    async def take(self, records: Sequence[Record]) -> None:
        """Apply one batch. Raises Transient if a temporary error persists for 8 tries."""
        start = 0
        for at, record in enumerate(records):
            if _is_timer(record):
                await self._process(records[start:at])
                await self._note_fired(record)
                start = at
        await self._process(records[start:])

    async def settle(self, waiting: Sequence[Record], *, is_last_look: bool = False) -> int:
        """Process waiting events again; return how many are no longer waiting.

        With `is_last_look`, an event is applied without its missing object if its rule allows it.
        """
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
        """Mark the timer as fired, as the scheduler did, unless the timer has changed since."""
        try:
            event = orjson.loads(record.value or b"null")
            event_id, key = str(event["id"]), str(event["data"]["object"]["id"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return  # not written by this scheduler; `process` decides about the record
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
