"""The same dispatcher against stripe-mock, which holds every request against the OpenAPI document of Stripe's API.

Where it is not on the PATH (`go install github.com/stripe/stripe-mock@v0.203.0`) these are skipped.
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
from schemas.settings import Mode
from schemas.stripe.subscription import StripeSubscription
from sinks.stripe_api.api import Refusal, Request, StripeApi
from sinks.stripe_api.key import ApiKey
from tests.kits.mailkit import eventually
from tests.kits.stripekit import CallDesk, StripeServer, make_topic, open_desk, records

STRIPE_MOCK = shutil.which("stripe-mock")

pytestmark = pytest.mark.skipif(STRIPE_MOCK is None, reason="stripe-mock is not on the PATH")


class StripeMock(StripeServer):
    """The program in place of our own server; only its address is asked for."""

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
        yield server  # type: ignore[misc]  # __aenter__ is the parent's and says so


@pytest.fixture
async def desk(
    database: SecretStr, stripe: StripeMock, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[CallDesk]:
    topic = f"{topic_prefix}.events"
    await asyncio.to_thread(make_topic, kafka_bootstrap, topic)
    async with open_desk(database, stripe, EventAppender(kafka_bootstrap, topic, client_id="test")) as opened:
        yield opened


async def test_what_we_write_is_what_the_api_takes(desk: CallDesk) -> None:
    """The form of a nested parameter, as Stripe describes it; a parameter that it does not know is refused."""
    await desk.queue("good")
    await desk.queue("bad", params={"no_such_setting": "x"})
    async with desk.dispatcher():
        await desk.until("good", status="done")
        row = await desk.until("bad", status="failed")
    assert "HTTP 400" in row["last_error"]


async def test_what_we_fetch_is_what_our_models_read(desk: CallDesk, kafka_bootstrap: str, topic_prefix: str) -> None:
    await desk.queue_get("tie", "sub_mock")
    async with desk.dispatcher():
        await desk.until("tie", status="done")
    (record,) = await asyncio.to_thread(records, kafka_bootstrap, f"{topic_prefix}.events")
    assert record.headers["type"] == "customer.subscription.updated"
    found = StripeSubscription.model_validate(record.event["data"]["object"])
    assert found.id == "sub_mock"
    assert record.key.decode() == found.customer


async def test_a_key_it_does_not_know_is_a_401(stripe: StripeMock) -> None:
    api = StripeApi(ApiKey(SecretStr("not-a-key"), Mode.TEST), stripe.url)
    with pytest.raises(Refusal) as refusal:
        await api.call(Request(method="GET", path="/v1/customers/cus_1"))
    assert refusal.value.status == 401
    await api.close()
