"""A stream for tests that starts, moves, cancels and handles timers, with events that may have to wait.

Each action is appended to its subject's trail (a user's e-mail column). A trail shows what was done, how often and in
which order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, SecretStr

from eventlog import client
from eventlog.append import EventAppender
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.topics import ensure_topics
from scheduler.due_timers import DueTimers, Turn
from scheduler.timers import Scheduler
from schemas.effects import CancelTimers, Effect, FinishTimer, Save, StartTimer
from schemas.errors import NotKnownYet
from schemas.event import Event
from schemas.kafka_access import KafkaAccess
from schemas.known import Known
from schemas.record import Headers, Record, RecordHeaders, Source, record_of
from schemas.references import References
from schemas.settings import Config, Settings
from schemas.state import Timer, User
from schemas.statuses import TimerStatus
from schemas.timer import TimerDue, timer_event_type
from schemas.verdict import Verdict
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.registry import Stream
from streams.rules.timers import is_due, refer
from tests.kits.ends import read_to_end
from tests.kits.storekit import fetch
from tests.kits.storekit import known as known_with

START = datetime(2026, 3, 1, 12, 30, 15, 123456, UTC)
RECEIVED_AT = "2026-03-01T12:00:00.000001+00:00"


class Errand(BaseModel):
    """An order for the timer of `subject`."""

    customer: str
    subject: str
    due_at: AwareDatetime | None = None


class ReferringTimer(BaseModel):
    """Refers to a user who must be stored already."""

    user: str
    note: str = ""


errands = Stream("errands")


def _refer(event: Event[Errand]) -> References:
    o = event.object
    return References(customers={(event.account, o.customer)}, timers_of={("errand", o.subject)})


@errands.on("errand.planned", model=Errand, refer=_refer)
def on_planned(event: Event[Errand], _known: Known) -> list[Effect]:
    assert event.object.due_at is not None
    start = StartTimer(
        key=f"errand:{event.object.subject}",
        account=event.account,
        customer_id=event.object.customer,
        kind="errand",
        subject=event.object.subject,
        due_at=event.object.due_at,
    )
    return [start]


@errands.on("errand.cancelled", model=Errand, refer=_refer)
def on_cancelled(event: Event[Errand], _known: Known) -> list[Effect]:
    o = event.object
    return [CancelTimers(account=event.account, customer_id=o.customer, kinds=("errand",), subject=o.subject)]


def _refer_with_trail(event: Event[TimerDue]) -> References:
    references = refer(event)
    references.users.add(("", event.object.subject))
    return references


@errands.on(timer_event_type("errand"), model=TimerDue, refer=_refer_with_trail)
def on_errand_due(event: Event[TimerDue], known: Known) -> list[Effect]:
    if not is_due(event, known):
        return []
    return [FinishTimer(event.object.timer_key), _noted(event.object.subject, event.type, known)]


@errands.on("user.came", model=ReferringTimer, refer=lambda event: References(users={("", event.object.user)}))
def on_came(event: Event[ReferringTimer], known: Known) -> list[Effect]:
    return [_noted(event.object.user, event.id, known)]


@errands.on("user.answered", model=ReferringTimer, refer=lambda event: References(users={("", event.object.user)}))
def on_answered(event: Event[ReferringTimer], known: Known) -> list[Effect]:
    if known.user("", event.object.user) is None:
        raise NotKnownYet(f"user {event.object.user}")
    return [_noted(event.object.user, event.id, known)]


def _noted(user_id: str, what: str, known: Known) -> Save:
    user = known.user("", user_id) or User(account="", user_id=user_id)
    return Save(replace(user, email=f"{user.email},{what}" if user.email else what))


def errand(subject: str, due_at: datetime = START, **changes: Any) -> Timer:
    """A pending timer of customer `cus_{subject}`, started by an earlier event."""
    timer = Timer(
        timer_key=f"errand:{subject}",
        account="",
        customer_id=f"cus_{subject}",
        kind="errand",
        subject=subject,
        due_at=due_at,
        data={"step": 2},
        event_id="evt_0",
    )
    return replace(timer, **changes)


def body(event_id: str, type_: str, **object_: Any) -> bytes:
    event = {"id": event_id, "object": "event", "type": type_, "created": 1_700_000_000, "livemode": False}
    return orjson.dumps(event | {"data": {"object": {"object": "thing", **object_}}})


@dataclass
class TimerKit:
    """Store, topic and processor of one test, with a clock that only the test moves."""

    settings: Settings
    store: Store
    processor: Processor
    now: datetime = START
    _read: dict[int, int] = field(default_factory=dict)
    _closers: list[Any] = field(default_factory=list)

    @classmethod
    async def open(cls, bootstrap: str, url: SecretStr, prefix: str, partitions: int, config: Config) -> TimerKit:
        settings = Settings(
            kafka_bootstrap=bootstrap,
            database_url=url,
            config_path=Path("unused"),
            topic_prefix=prefix,
            partitions=partitions,
        )
        ensure_topics(settings)
        store = await Store.connect(url, pool_size=2)
        letters = DeadLetterPublisher(KafkaAccess(bootstrap), settings.dead_topic)
        processor = Processor(
            store=store,
            dead_letters=letters,
            rules=errands.rules,
            config=config,
            group=f"{prefix}.worker",
            code_version="1",
            clock=lambda: kit.now,
        )
        kit = cls(settings, store, processor)
        kit._closers.append(letters)
        return kit

    async def close(self) -> None:
        for closer in reversed(self._closers):
            closer.close()
        await self.store.close()

    def scheduler(
        self,
        *,
        batch: int = 500,
        poll_s: float = 60.0,
        event_log: EventAppender | None = None,
        ahead: timedelta | None = None,
    ) -> Scheduler:
        """With `ahead` Postgres' clock decides, and the kit's is that of the process."""
        event_log = event_log or self.event_log()
        scheduler = Scheduler(self._connect, event_log, clock=lambda: self.now, batch=batch, poll_s=poll_s, ahead=ahead)
        self._closers.append(scheduler)
        return scheduler

    def event_log(self, kind: type[EventAppender] = EventAppender, bootstrap: str = "") -> EventAppender:
        access = KafkaAccess(bootstrap) if bootstrap else self.settings.kafka
        made = kind(access, self.settings.events_topic, client_id="test")
        self._closers.append(made)
        return made

    async def _connect(self, wake: Any) -> DueTimers:
        return await DueTimers.connect(self.settings.database_url, wake)

    async def start(self, *timers: Timer) -> None:
        async with self.store.transaction([]) as transaction:
            await transaction.flush(Flush(known_with(*timers)))

    async def timers(self) -> dict[str, tuple[TimerStatus, datetime]]:
        rows = await self.rows("SELECT timer_key, status, due_at FROM billing.timers ORDER BY timer_key")
        return {row["timer_key"]: (TimerStatus(row["status"]), row["due_at"]) for row in rows}

    async def statuses(self) -> dict[str, str]:
        return {key: str(status) for key, (status, _) in (await self.timers()).items()}

    async def trails(self) -> dict[str, str]:
        return {row["user_id"]: row["email"] for row in await self.rows("SELECT user_id, email FROM billing.users")}

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await fetch(self.settings.database_url, query)

    def send(self, event_id: str, type_: str, key: str, **object_: Any) -> None:
        """Append an event to the log as the gateway does."""
        producer = client.producer(self.settings.kafka, client_id="test")
        headers = RecordHeaders(
            event_id, type_, Source.STRIPE, "", False, "", "default", datetime.fromisoformat(RECEIVED_AT)
        ).encode()
        producer.produce(
            self.settings.events_topic, key=key, value=body(event_id, type_, **object_), headers=list(headers)
        )
        assert producer.flush(30) == 0

    def read(self) -> list[Record]:
        """The records that were not read before, partition by partition."""
        consumer = client.consumer(self.settings.kafka, group="kit")
        starts = {partition: self._read.get(partition, 0) for partition in range(self.settings.partitions)}
        try:
            found = [_record(message) for message in read_to_end(consumer, self.settings.events_topic, starts)]
        finally:
            consumer.close()
        self._read |= {record.partition: record.offset + 1 for record in found}
        return found

    async def work(self, records: Iterable[Record] | None = None) -> dict[str, Verdict]:
        """Process the new records, or these records, as one batch; return the verdict on each event by id."""
        batch = list(self.read() if records is None else records)
        verdicts = await self.processor.process(batch) if batch else []
        return {record.headers["event_id"]: verdict for record, verdict in zip(batch, verdicts, strict=True)}

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


def _record(message: Any) -> Record:
    headers: Headers = tuple((name, bytes(value)) for name, value in message.headers() or ())
    return record_of(
        message.topic(), message.partition(), message.offset(), message.key(), message.value(), headers, 1_700_000_000.0
    )


async def _fire_and_die(bootstrap: str, topic: str, url: str, now: str) -> None:
    """Run the scheduler and kill the process with SIGKILL before it writes `fired`."""

    async def die(_turn: Turn, _timers: object, _status: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Turn, "mark", die)  # noqa: B010  # a plain assignment is a type error

    async def connect(wake: Any) -> DueTimers:
        return await DueTimers.connect(SecretStr(url), wake)

    event_log = EventAppender(KafkaAccess(bootstrap), topic, client_id="doomed")
    await Scheduler(connect, event_log, clock=lambda: datetime.fromisoformat(now)).fire_due()


if __name__ == "__main__":
    asyncio.run(_fire_and_die(*sys.argv[1:]))
