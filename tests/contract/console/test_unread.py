"""The money behind events that are on the log and that the worker has not read."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import TopicPartition
from pydantic import SecretStr

from eventlog import client
from eventlog.unread import NONE, Unread, unread_events
from schemas.console_settings import Role
from schemas.record import RecordHeaders, Source
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.consolekit import Browser
from tests.kits.replaykit import ReplayKit
from tests.kits.storekit import ask, dead_letter_row, known, write


def _spans(rig: ReplayKit) -> dict[int, tuple[int, int]]:
    """All offsets of the events topic."""
    consumer = client.consumer(rig.settings.kafka, group="none")
    try:
        places = [TopicPartition(rig.settings.events_topic, at) for at in range(rig.settings.partitions)]
        return {place.partition: client.watermarks(consumer, place) for place in places}
    finally:
        consumer.close()


def _send(rig: ReplayKit, event_id: str, key: str, *, account: str = "", at: float | None = None) -> None:
    """Append a record with this key. `at` is Kafka's time of it, in seconds since the epoch."""
    headers = RecordHeaders(event_id, "x", Source.STRIPE, account, False, "", "d", datetime(2026, 1, 1, tzinfo=UTC))
    more: dict[str, Any] = {} if at is None else {"timestamp": int(at * 1000)}
    rig.producer.produce(rig.settings.events_topic, key=key, value=b"{}", headers=list(headers.encode()), **more)
    assert rig.producer.flush(30) == 0


async def test_unread_events_are_counted_by_customer(rig: ReplayKit) -> None:
    for at, (key, account) in enumerate([("cus_1", ""), ("cus_2", ""), ("acct_1/cus_1", "acct_1"), ("cus_1", "")]):
        _send(rig, f"evt_{at}", key, account=account)
    access, topic, spans = rig.settings.kafka, rig.settings.events_topic, _spans(rig)

    async def read(wanted: dict[int, tuple[int, int]], **more: int) -> Unread:
        return await asyncio.to_thread(unread_events, access, topic, wanted, **more)

    assert await read(spans) == Unread({("", "cus_1"): 2, ("", "cus_2"): 1, ("acct_1", "cus_1"): 1})
    assert await read({at: (end, end) for at, (_, end) in spans.items()}) == NONE
    cut = await read(spans, most=1)
    assert (sum(cut.events.values()), cut.is_cut) == (1, True)
    _send(rig, "evt_later", "cus_9")
    assert ("", "cus_9") not in (await read(spans)).events, "the span ends before it"


async def test_the_overview_names_the_money_behind_unread_events(
    anyone: Browser, rig: ReplayKit, store: Store, database: SecretStr
) -> None:
    """A customer with a dead letter and unread events counts once; who has just sent an event does not wait."""
    await write(store, Flush(known=known(), dead_letters=[dead_letter_row()]))
    await ask(
        database,
        """INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day)
        SELECT '', false, 'cus_' || number, 'eur', now(), 'pro', 'new', amount, now()::date
        FROM (VALUES (1, 2900), (2, 9900), (3, 50)) AS v (number, amount) RETURNING 1""",
    )
    finance = await anyone.signed_in(Role.FINANCE)
    (row,) = (await finance.json("/"))["blocked"]["rows"]
    assert (row["mrr"], row["waits_for"]) == (2900, "1 dead letter")

    anyone.console.reads._kept.clear()
    anyone.console.lag._last = None
    for at, customer in enumerate(("cus_1", "cus_2", "cus_2", "cus_none")):
        _send(rig, f"evt_{at}", customer, at=time.time() - 3600)
    blocked = (await finance.json("/"))["blocked"]
    assert blocked["not_known"] is None
    assert blocked["is_cut"] is False
    (row,) = blocked["rows"]
    assert (row["mrr"], row["customers"]) == (12_800, 2)
    assert row["waits_for"] == "1 dead letter and 3 unread events"
    page = await finance.page("/")
    assert "EUR\u00a0128.00 of MRR (test mode) waits behind 1 dead letter and 3 unread events of 2 customers." in page
