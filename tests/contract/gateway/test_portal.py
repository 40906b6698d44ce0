"""F4: the signed link of "update payment method", opened at a real gateway in front of the simulated Stripe."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from gateway.mail_links import Exports, Links, Unsubscriptions
from gateway.portal import PER_CUSTOMER, OpeningLimit, Portal
from local.stripe.simulator.server import TEST_KEY, Fault, StripeServer
from schemas.portal_link import PortalLink, portal_url
from schemas.settings import Mail, Mode
from sinks.email.message import Composer
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import ApiKey
from sinks.stripe_api.portal import PortalApi
from tests.contract.sinks.stripe_calls.test_stripe_mock import STRIPE_MOCK, StripeMock
from tests.kits.mailkit import Clock, queued_sample
from tests.kits.simulatorkit import Scene

SECRET = b"a secret of this test"
BILLING_KEY = ApiKey(SecretStr(TEST_KEY), Mode.TEST)


@dataclass
class PortalKit:
    """A gateway that serves only `/portal`, and a browser that does not follow redirects."""

    url: str
    stripe: StripeServer
    customer_id: str
    session: aiohttp.ClientSession
    clock: Clock = field(default_factory=Clock)

    def link(self, customer_id: str | None = None, days: int = 30) -> str:
        until = self.clock.now + timedelta(days=days)
        return portal_url(self.url, SECRET, PortalLink("", customer_id or self.customer_id, until))

    async def get(self, link: str) -> tuple[int, str]:
        async with self.session.get(link, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", "")


@asynccontextmanager
async def _gateway(portal: Portal) -> AsyncIterator[str]:
    unused = cast("Exports", None), cast("Unsubscriptions", None)
    app = web.Application()
    app.add_routes(Links([SECRET], *unused, portal=portal).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def kit() -> AsyncIterator[PortalKit]:
    scene, clock = Scene(), Clock()
    async with StripeServer(scene.stripe) as stripe, aiohttp.ClientSession() as session:
        api = StripeApi(BILLING_KEY, stripe.url)
        portal = Portal([SECRET], PortalApi(api, "https://app.example.com", "bpc_1"), clock=clock)
        async with _gateway(portal) as url:
            yield PortalKit(url, stripe, scene.customer["id"], session, clock)
        await api.close()


async def test_F4_the_button_of_a_mail_opens_a_fresh_session(kit: PortalKit) -> None:
    config = Mail(app_url=kit.url, customer_portal=True)
    mail = queued_sample("payment-failed", customer_id=kit.customer_id, livemode=False)
    body = Composer(config, link_secret=SECRET).compose(mail, kit.clock.now).message.get_body(("plain",))
    assert body is not None
    (link,) = re.findall(rf"{kit.url}/portal\S+", body.get_content())
    for _ in range(2):
        assert await kit.get(link) == (303, f"https://billing.stripe.com/p/session/test_{kit.customer_id}")
    first, second = kit.stripe.requests
    assert first.form == second.form == {
        "customer": kit.customer_id,
        "return_url": "https://app.example.com",
        "flow_data[type]": "payment_method_update",
        "configuration": "bpc_1",
    }  # fmt: skip


async def test_F4_a_forged_or_expired_link_asks_stripe_nothing(kit: PortalKit) -> None:
    good = kit.link()
    token = good.partition("=")[2]
    for bad in ("", "x", token[:-2], "A" + token[1:], token + "&token=" + token):
        assert (await kit.get(f"{kit.url}/portal?token={bad}"))[0] == 403
    assert (await kit.get(portal_url(kit.url, b"another secret", PortalLink("", "cus_1", kit.clock.now))))[0] == 403
    kit.clock.move(days=30)
    assert (await kit.get(good))[0] == 410
    assert kit.stripe.requests == []


async def test_F4_openings_are_limited_per_customer(kit: PortalKit) -> None:
    statuses = [(await kit.get(kit.link()))[0] for _ in range(PER_CUSTOMER + 2)]
    assert statuses == [303] * PER_CUSTOMER + [429] * 2
    assert (await kit.get(kit.link("cus_other")))[0] == 502  # another customer, whom Stripe does not know
    assert len(kit.stripe.requests) == PER_CUSTOMER + 1


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.DROP])
async def test_F4_a_fault_at_stripe_is_a_page_and_the_next_try_works(kit: PortalKit, fault: Fault) -> None:
    kit.stripe.faults.append(fault)
    assert [(await kit.get(kit.link()))[0] for _ in range(2)] == [503, 303]


def test_F4_openings_are_limited_in_total_and_memory_is_bounded() -> None:
    now = [0.0]
    limit = OpeningLimit(clock=lambda: now[0])
    links = [PortalLink("", f"cus_{number}", Clock().now) for number in range(30)]
    assert [limit.allows(link) for link in links].count(True) == 20
    now[0] += 1
    assert [limit.allows(link) for link in links].count(True) == 5


class _Sessions:
    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self, link: PortalLink) -> str:  # noqa: ARG002  # the protocol's
        return self.url


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://billing.stripe.com/p/session/x", 303),
        ("https://pay.example.com/p", 303),
        ("https://evil.example/p", 502),
        ("http://billing.stripe.com/p", 502),
        ("https://billing.stripe.com.evil.example/p", 502),
    ],
)
async def test_F4_it_redirects_to_pages_of_stripe_only(kit: PortalKit, url: str, status: int) -> None:
    portal = Portal([SECRET], _Sessions(url), hosts=("pay.example.com",), clock=kit.clock)
    async with _gateway(portal) as gateway:
        link = portal_url(gateway, SECRET, PortalLink("", "cus_1", kit.clock.now + timedelta(days=1)))
        assert (await kit.get(link))[0] == status


@pytest.mark.skipif(STRIPE_MOCK is None, reason="stripe-mock is not on the PATH")
async def test_F4_stripes_own_schema_accepts_the_request() -> None:
    async with StripeMock() as stripe:
        api = StripeApi(ApiKey(SecretStr("sk_test_123"), Mode.TEST), stripe.url)
        link = PortalLink("acct_1", "cus_1", Clock().now)
        assert (await PortalApi(api, "https://app.example.com", "bpc_1").open(link)).startswith("https://")
        await api.close()
