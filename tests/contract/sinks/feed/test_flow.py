"""F3 from the event to the receiver: queued in the worker's transaction, sent by the dispatcher, also to the topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from eventlog.append import EventAppender
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from local.stripe.builder import Json, Price, StripeEvents
from schemas.feed_settings import TOPIC
from schemas.kafka_access import KafkaAccess
from schemas.record import Source, record_of
from schemas.settings import Config
from schemas.verdict import Verdict
from sinks.feed.poster import TopicPoster
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.feedkit import FeedKit, ReceiverServer, destination, open_kit, poster
from tests.kits.rulekit import CONFIG, DAY, NOW, at
from tests.kits.stripekit import make_topic, records
from tests.waiting import eventually

MAKE = StripeEvents()


@pytest.fixture
async def feed(database: SecretStr) -> AsyncIterator[FeedKit]:
    async with open_kit(database) as kit:
        yield kit


@pytest.fixture
async def receiver() -> AsyncIterator[ReceiverServer]:
    async with ReceiverServer() as server:
        yield server


def config(url: str) -> Config:
    feed = {"topic": True, "destinations": {"app": destination(url).model_dump()}}
    return CONFIG.model_copy(update={"feed": CONFIG.feed.model_validate(feed)})


class Worker:
    """Processes events one by one, as a worker does."""

    def __init__(self, store: Store, letters: DeadLetterPublisher, config: Config) -> None:
        self._processor = Processor(
            store=store, dead_letters=letters, rules=RULES, config=config, group="test.worker", code_version="1",
            clock=lambda: at(NOW),
        )  # fmt: skip
        self._offset = 0

    async def take(self, event: Json, source: Source = Source.STRIPE) -> Verdict:
        self._offset += 1
        entry = Entry.of(event, source=source, received_at=at(NOW), livemode=False)
        record = record_of("events", 0, self._offset, entry.key, entry.value, entry.headers, float(NOW))
        (verdict,) = await self._processor.process([record])
        return verdict


def subscribed(when: int, price: Price, id_: str) -> Json:
    type_ = "customer.subscription.created" if when == NOW else "customer.subscription.updated"
    return MAKE.event(type_, MAKE.subscription(start=NOW, price=price), when, id_=id_)


PRO, TEAM = Price("price_pro", 2900, "eur"), Price("price_team", 9900, "eur")


async def test_F3_what_changes_in_the_tables_arrives_at_the_receiver_and_on_the_topic(
    feed: FeedKit, store: Store, receiver: ReceiverServer, kafka_bootstrap: str, topic_prefix: str
) -> None:
    """A → B → A with repeats, a late event, and an imported object; the receiver's newest message is the view's row."""
    topic = f"{topic_prefix}.changes"
    await asyncio.to_thread(make_topic, kafka_bootstrap, topic)
    access = KafkaAccess(kafka_bootstrap)
    letters = DeadLetterPublisher(access, f"{topic_prefix}.dead")
    worker = Worker(store, letters, config(receiver.url))
    events = [subscribed(NOW, PRO, "evt_1"), subscribed(NOW + 1, TEAM, "evt_2"), subscribed(NOW + 2, PRO, "evt_3")]
    try:
        for event in [*events, *events, subscribed(NOW - DAY, TEAM, "evt_late")]:
            await worker.take(event)
        imported = MAKE.subscription("sub_9", customer="cus_9", start=NOW)
        await worker.take(MAKE.event("customer.subscription.created", imported, NOW, id_="imp_9"), Source.IMPORT)
    finally:
        letters.close()
    feed.clock.now = at(NOW + 60)
    changes = TopicPoster(EventAppender(access, topic, client_id="test"))
    async with feed.dispatcher({"app": poster(receiver.url), TOPIC: changes}):
        await eventually(lambda: _is_empty(feed), within_s=60)
    plans = [message["data"]["plan"] for message in receiver.got if message["type"] == "access.changed"]
    assert plans == ["pro", "team", "pro"]
    versions = [message["data"]["version"] for message in receiver.got]
    assert versions == sorted(versions)
    view = await feed.connection.fetchrow("SELECT * FROM billing.access WHERE customer_id = 'cus_1'")
    assert view is not None
    newest = max(
        (message["data"] for message in receiver.got if message["type"] == "access.changed"),
        key=lambda data: int(data["version"]),
    )
    names = ("has_access", "plan", "reason", "organization_id", "user_id")
    assert [newest[name] for name in names] == [view[name] for name in names]
    stored = await asyncio.to_thread(records, kafka_bootstrap, topic)
    assert [record.event for record in stored] == receiver.got
    assert {record.key for record in stored} == {b"cus_1"}
    assert {message["data"]["customer_id"] for message in receiver.got} == {"cus_1"}


async def _is_empty(feed: FeedKit) -> bool:
    query = "SELECT count(*) FILTER (WHERE status <> 'sent') = 0 AND count(*) > 0 FROM billing.notifications"
    return bool(await feed.connection.fetchval(query))
