"""The dispatcher against stripe-mock, which validates every request with the OpenAPI document of Stripe's API.

The tests are skipped if it is not on the PATH (`go install github.com/stripe/stripe-mock@v0.203.0`).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
from pydantic import SecretStr

from eventlog.append import EventAppender
from local.stack.ports import free_port
from schemas.kafka_access import KafkaAccess
from schemas.settings import Mode
from schemas.stripe.subscription import StripeSubscription
from sinks.stripe_api.api import Refusal, Request, StripeApi
from sinks.stripe_api.key import ApiKey
from tests.kits.stripekit import CallOutboxKit, FakeStripeServer, make_topic, open_kit, records
from tests.waiting import eventually

STRIPE_MOCK = shutil.which("stripe-mock")

pytestmark = pytest.mark.skipif(STRIPE_MOCK is None, reason="stripe-mock is not on the PATH")


class StripeMock(FakeStripeServer):
    """The stripe-mock program in place of our own server; tests use only its address."""

    async def start(self) -> None:
        self._port = free_port()
        self._process = await asyncio.create_subprocess_exec(
            STRIPE_MOCK or "", "-http-addr", f"127.0.0.1:{self._port}", stdout=asyncio.subprocess.DEVNULL
        )

        async def is_up() -> bool:
            try:
                async with aiohttp.ClientSession() as session, session.get(self.url):
                    return True
            except aiohttp.ClientError:
                return False

        await eventually(is_up)

    async def stop(self) -> None:
        self._process.terminate()
        await self._process.wait()


@pytest.fixture
async def stripe() -> AsyncIterator[StripeMock]:
    async with StripeMock() as server:
        yield server  # type: ignore[misc]  # __aenter__ is inherited and typed as the parent


@pytest.fixture
async def desk(
    database: SecretStr, stripe: StripeMock, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[CallOutboxKit]:
    topic = f"{topic_prefix}.events"
    await asyncio.to_thread(make_topic, kafka_bootstrap, topic)
    async with open_kit(
        database, stripe, EventAppender(KafkaAccess(kafka_bootstrap), topic, client_id="test")
    ) as opened:
        yield opened


async def test_requests_match_the_api(desk: CallOutboxKit) -> None:
    """Stripe's form of nested parameters is accepted; an unknown parameter is refused."""
    await desk.queue("good")
    await desk.queue("bad", params={"no_such_setting": "x"})
    async with desk.dispatcher():
        await desk.until("good", status="done")
        row = await desk.until("bad", status="failed")
    assert "HTTP 400" in row["last_error"]


async def test_fetched_objects_can_be_read_by_the_models(
    desk: CallOutboxKit, kafka_bootstrap: str, topic_prefix: str
) -> None:
    await desk.queue_get("tie", "sub_mock")
    async with desk.dispatcher():
        await desk.until("tie", status="done")
    (record,) = await asyncio.to_thread(records, kafka_bootstrap, f"{topic_prefix}.events")
    assert record.headers["type"] == "customer.subscription.updated"
    found = StripeSubscription.model_validate(record.event["data"]["object"])
    assert found.id == "sub_mock"
    assert record.key.decode() == found.customer


async def test_an_unknown_key_is_a_401(stripe: StripeMock) -> None:
    api = StripeApi(ApiKey(SecretStr("not-a-key"), Mode.TEST), stripe.url)
    with pytest.raises(Refusal) as refusal:
        await api.call(Request(method="GET", path="/v1/customers/cus_1"))
    assert refusal.value.status == 401
    await api.close()
