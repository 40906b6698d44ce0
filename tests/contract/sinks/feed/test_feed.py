"""F3: notifications reach each receiver at least once, signed, in order; failing receivers are paused and disabled."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from ops.cli import command_line
from schemas.feed_settings import TOPIC, weakness_of
from sinks.feed import receivers
from sinks.feed.answers import GIVE_UP_AFTER
from tests.kits.feedkit import OTHER_SECRET, SECRET, FeedKit, ReceiverServer, open_kit, poster, queued
from tests.waiting import eventually


@pytest.fixture
async def receiver() -> AsyncIterator[ReceiverServer]:
    async with ReceiverServer() as server:
        yield server


@pytest.fixture
async def feed(database: SecretStr) -> AsyncIterator[FeedKit]:
    async with open_kit(database) as kit:
        yield kit


async def test_F3_a_notification_is_signed_and_sent_once(feed: FeedKit, receiver: ReceiverServer) -> None:
    """Two dispatchers share the outbox. The message has the version that Postgres has set."""
    for number in range(20):
        await feed.queue(f"n{number:02d}")
    async with (
        feed.dispatcher({"app": poster(receiver.url)}, claimer="one"),
        feed.dispatcher({"app": poster(receiver.url)}, claimer="two"),
    ):
        await eventually(lambda: _all_sent(feed, 20))
    assert sorted(receiver.ids) == [f"msg_n{number:02d}" for number in range(20)]
    row = await feed.row("n00")
    message = next(message for message in receiver.got if message["data"]["event_id"] == "evt_n00")
    assert message["type"] == "access.changed"
    assert message["data"] == {
        "account": "",
        "customer_id": "cus_n00",
        "event_id": "evt_n00",
        "has_access": True,
        "livemode": False,
        "version": row["version"],
    }
    assert (row["attempts"], row["claimed_by"], row["last_error"]) == (1, None, None)


async def test_F3_the_version_grows_with_each_change_of_a_customer(feed: FeedKit) -> None:
    """Also after a clock that was ahead; and it is the same for each destination of one change."""
    ahead = 4_000_000_000_000
    await feed.queue("a", customer_id="cus_1")
    await feed.connection.execute("UPDATE billing.notifications SET version = $1", ahead)
    await feed.queue("b", customer_id="cus_1")
    await feed.queue("b2", customer_id="cus_1", destination="crm", event_id="evt_b", message_id="msg_b")
    await feed.queue("other", customer_id="cus_2")
    rows = await feed.connection.fetch("SELECT notification_key, version FROM billing.notifications")
    versions = {row["notification_key"]: row["version"] for row in rows}
    assert (versions["b"], versions["b2"]) == (ahead + 1, ahead + 1)
    assert versions["other"] < ahead


async def test_F3_the_versions_of_a_guests_purchase_differ(feed: FeedKit) -> None:
    """One event reports that it is paid and has to be delivered: a receiver that keeps the newest needs both."""
    await feed.queue("paid", customer_id=None, event_id="evt_1")
    await feed.connection.execute(
        "INSERT INTO billing.notifications (notification_key, event_id, destination, message_id, type, occurred_at, "
        "queued_at, next_attempt_at) SELECT 'more_' || n, 'evt_1', 'app', 'msg_' || n, 'payment.fulfilled', now(), "
        "now(), now() FROM generate_series(1, 300) n"
    )
    rows = await feed.connection.fetch("SELECT version FROM billing.notifications")
    assert len({row["version"] for row in rows}) == 301
    assert (await feed.row("paid"))["version"] == min(row["version"] for row in rows)


async def test_F3_one_customers_notifications_are_sent_in_order(feed: FeedKit, receiver: ReceiverServer) -> None:
    """A failed one does not hold up the later ones: the version says which is newer."""
    for number in range(12):
        await feed.queue(f"n{number:02d}", customer_id="cus_1")
    receiver.answers = [200, 500]
    async with feed.dispatcher({"app": poster(receiver.url)}):
        await eventually(lambda: _all_sent(feed, 11))
        feed.clock.move(seconds=10)
        await eventually(lambda: _all_sent(feed, 12))
    wanted = [f"msg_n{number:02d}" for number in range(12)]
    assert receiver.ids == [*wanted, "msg_n01"]
    versions = [message["data"]["version"] for message in receiver.got[:11]]
    assert versions == sorted(versions)


async def test_F3_a_receiver_that_is_down_gets_all_when_it_is_back(feed: FeedKit, receiver: ReceiverServer) -> None:
    """And another destination does not wait for it."""
    async with ReceiverServer() as other:
        receiver.status = 503
        await feed.queue("a")
        await feed.queue("b", destination="other")
        async with feed.dispatcher({"app": poster(receiver.url), "other": poster(other.url)}) as running:
            await feed.until("b", status="sent")
            row = await feed.until("a", status="queued", attempts=1)
            assert row["last_error"] == "HTTP 503"
            assert running.trouble() is None
            receiver.status = 200
            feed.clock.move(hours=1)
            await feed.until("a", status="sent", last_error=None)
    assert len(set(receiver.ids)) == 1


async def test_F3_it_gives_up_after_three_days_and_can_be_requeued(feed: FeedKit, receiver: ReceiverServer) -> None:
    receiver.status = 500
    await feed.queue("a", queued_at=feed.clock.now - GIVE_UP_AFTER)
    async with feed.dispatcher({"app": poster(receiver.url)}) as running:
        row = await feed.until("a", status="failed")
        assert "after 1 tries in 72 hours: HTTP 500" in row["last_error"]
        receiver.status = 200
        assert await running._claims.requeue(keys=["a"]) == ["a"]
        await feed.until("a", status="sent")


async def test_F3_a_receiver_that_is_gone_is_disabled_until_it_is_enabled(
    feed: FeedKit, receiver: ReceiverServer
) -> None:
    receiver.answers = [410]
    await feed.queue("a")
    async with feed.dispatcher({"app": poster(receiver.url)}) as running:
        await feed.until("a", status="failed")
        await eventually(feed.disabled)
        await feed.queue("b")
        await running.watch()
        assert running._feed_metrics.disabled.labels("app")._value.get() == 1
        assert (await feed.row("b"))["status"] == "queued"
        assert len(receiver.ids) == 1
        assert await receivers.enable(feed.connection, "app")
        await feed.until("b", status="sent")
    assert not await receivers.enable(feed.connection, "app")


async def test_F3_a_receiver_that_fails_for_days_is_disabled(feed: FeedKit, receiver: ReceiverServer) -> None:
    receiver.status = 500
    await feed.queue("a")
    async with feed.dispatcher({"app": poster(receiver.url)}, disable_after=timedelta(days=2)):
        await feed.until("a", attempts=1, status="queued")
        assert not await feed.disabled()
        feed.clock.move(days=2, hours=1)
        await feed.until("a", attempts=2, status="queued")
        await eventually(feed.disabled)


async def test_F3_the_topic_is_never_disabled_and_gets_all_when_it_is_back(
    feed: FeedKit, receiver: ReceiverServer
) -> None:
    """Also one that an earlier version disabled."""
    receiver.answers = [500, 500]
    await feed.connection.execute(
        "INSERT INTO billing.feed_destinations (destination, failing_since, disabled_at) VALUES ($1, now(), now())",
        TOPIC,
    )
    await feed.queue("a", destination=TOPIC)
    async with feed.dispatcher({TOPIC: poster(receiver.url)}, disable_after=timedelta(days=2)) as running:
        await feed.until("a", attempts=1, status="queued")
        feed.clock.move(days=4)
        await feed.until("a", attempts=2, status="queued")
        (state,) = await receivers.states(feed.connection)
        assert (state.disabled_at, state.failing_since is not None) == (None, True)
        await running.watch()
        assert running._feed_metrics.disabled.labels(TOPIC)._value.get() == 0
        feed.clock.move(days=1)
        await feed.until("a", status="sent")


async def test_F3_success_ends_the_count_of_days(feed: FeedKit, receiver: ReceiverServer) -> None:
    receiver.answers = [500]
    await feed.queue("a")
    async with feed.dispatcher({"app": poster(receiver.url)}):
        await feed.until("a", attempts=1, status="queued")
        feed.clock.move(minutes=1)
        await feed.until("a", status="sent")

        async def is_ok() -> bool:
            query = "SELECT failing_since IS NULL FROM billing.feed_destinations WHERE destination = 'app'"
            return bool(await feed.connection.fetchval(query))

        await eventually(is_ok)


async def test_F3_a_destination_that_the_config_no_longer_has_fails(feed: FeedKit) -> None:
    await feed.queue("a")
    async with feed.dispatcher({}):
        row = await feed.until("a", status="failed")
    assert row["last_error"] == "the config has no destination app"


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
async def test_F3_a_receiver_accepts_either_secret_during_a_rotation(secret: str) -> None:
    async with ReceiverServer(secret) as server:
        answer = await poster_answer(server, SECRET, OTHER_SECRET)
    assert answer == (200, "")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\nbody", 200),
        (b"200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 4\r\n\r\nbody", 200),
        (b"200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody", 200),
        (b"200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"0" * 5_000_000), 200),
        (b"200 OK\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 500_000, 200),
        (b"307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", 307),
        (b"101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101),
        (b"200 OK\r\nX: " + b"x" * 500_000, 0),
        (b"200 OK\r\n" + b"X: y\r\n" * 50_000, 0),
        (b"100 Continue\r\n\r\n", 0),
        (b"\xff\xfe\r\n\r\n", 0),
    ],
    ids=range(11),
)
async def test_F3_the_status_alone_is_the_answer_and_no_body_is_read(answer: bytes, status: int) -> None:
    """Also if the body is encoded, endless or a gzip bomb; an answer without an end has its time."""
    taken = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + answer)
            await writer.drain()
            await taken.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        sender = poster(
            f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/hook", total_s=20.0 if status else 1.0
        )
        try:
            assert (await sender.post(queued())).status == status
        finally:
            await sender.close()
            taken.set()


async def test_F3_redirects_are_not_followed(receiver: ReceiverServer) -> None:
    receiver.status, receiver.location = 302, receiver.url
    assert await poster_answer(receiver) == (302, "")
    assert len(receiver.ids) == 1


async def test_F3_a_name_of_a_private_address_is_not_connected_to(receiver: ReceiverServer) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    one = poster(url, allow_networks=())
    try:
        answer = await one.post(queued())
    finally:
        await one.close()
    assert answer.status == 0
    assert "localhost has no public address" in answer.reason
    assert receiver.ids == []


async def poster_answer(server: ReceiverServer, *secrets: str) -> tuple[int, str]:
    one = poster(server.url, *secrets)
    try:
        answer = await one.post(queued())
    finally:
        await one.close()
    return answer.status, answer.reason


async def _all_sent(feed: FeedKit, wanted: int) -> bool:
    query = "SELECT count(*) FROM billing.notifications WHERE status = 'sent'"
    return int(await feed.connection.fetchval(query) or 0) == wanted


async def test_F3_the_commands_show_requeue_and_enable(
    feed: FeedKit, database: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "billing.toml"
    config.write_text(f'[feed.destinations.app]\nurl = "https://example.com/hook"\nsecrets = ["{SECRET}"]\n')
    for name, value in {"KAFKA_BOOTSTRAP": "127.0.0.1:1", "CONFIG": str(config)}.items():
        monkeypatch.setenv(f"BILLING_{name}", value)
    monkeypatch.setenv("BILLING_DATABASE_URL", database.get_secret_value())

    async def billing(*words: str) -> Result:
        return await asyncio.to_thread(lambda: CliRunner().invoke(command_line(["feed"]), words))

    assert orjson.loads((await billing("feed", "status", "--json")).stdout)["state"] == "ok"
    await feed.queue("a", status="failed", last_error="HTTP 410")
    await receivers.failed(feed.connection, "app", "HTTP 410", disable_after=timedelta(0), ahead=timedelta(0))
    shown = await billing("feed", "status", "--json")
    found = orjson.loads(shown.stdout)
    assert (shown.exit_code, found["state"], found["failed"], found["reason"]) == (1, "disabled", 1, "HTTP 410")
    assert "HTTP 410" in (await billing("feed", "ls")).stdout
    assert (await billing("feed", "requeue", "a")).exit_code == 0
    assert (await billing("feed", "requeue", "a")).exit_code == 1
    assert (await billing("feed", "enable", "app")).exit_code == 0
    assert (await billing("feed", "enable", "app")).exit_code == 1
    assert weakness_of((await billing("feed", "secret")).stdout.strip()) is None
