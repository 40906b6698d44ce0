"""`billing simulate`: signed posts with a real receiver, retries, refusals, and never to a live system."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from gateway.signature import SignatureVerdict, verify
from local.stripe.simulator.company import Company
from local.stripe.simulator.delivery import Trouble
from local.stripe.simulator.run import EndpointDoesNotAnswer, Simulation
from tests.kits import clikit

SECRET = "whsec_simulatedEndpointOfTheTests0123456789"
UNTIL = 1_790_000_000


@dataclass
class Receiver:
    """Any endpoint of the world: it checks the signature and keeps the events."""

    url: str = ""
    events: list[dict[str, object]] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    """When each event arrived, in seconds of the monotonic clock."""
    unavailable: int = 0
    """Requests that it still answers with 503."""
    refuses: str = ""
    """An event type that it answers with 400."""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get("Stripe-Signature")
        if verify(body, header, [SECRET.encode()], now=time.time()) is not SignatureVerdict.VALID:
            return web.Response(status=400, text="no signature matches")
        if self.unavailable:
            self.unavailable -= 1
            return web.Response(status=503)
        event = orjson.loads(body)
        if event["type"] == self.refuses:
            return web.Response(status=400, text="not that")
        self.events.append(event)
        self.arrived.append(time.monotonic())
        return web.Response()


@asynccontextmanager
async def receiving(**settings: object) -> AsyncIterator[Receiver]:
    receiver = Receiver(**settings)  # type: ignore[arg-type]  # the names of its fields
    app = web.Application()
    app.router.add_post("/hooks", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield receiver
    await runner.cleanup()


def _simulation(url: str, **changes: object) -> Simulation:
    known: dict[str, object] = {"company": Company(6, 4, 2, UNTIL), "url": url, "secret": SecretStr(SECRET)}
    return Simulation(**{**known, "trouble": Trouble(), **changes})  # type: ignore[arg-type]  # the names of its fields


async def test_every_event_is_posted_signed_and_one_customers_in_order() -> None:
    async with receiving(unavailable=3) as receiver:
        simulation = _simulation(receiver.url)
        statistics = await simulation.run()
    assert statistics.posted == statistics.events == len(receiver.events)
    assert (statistics.retries, statistics.refused) == (3, Counter())
    created = [
        int(str(event["created"]))
        for event in receiver.events
        if str(event["type"]).startswith("customer.subscription")
    ]
    assert created
    assert {str(event["id"]) for event in receiver.events} == {one.id for one in simulation.company.stripe.events()}


async def test_duplicates_and_an_outage_are_counted() -> None:
    async with receiving() as receiver:
        statistics = await _simulation(receiver.url, trouble=Trouble(duplicates=0.3, outages=1)).run()
    assert statistics.duplicates > 0
    assert statistics.posted == len(receiver.events) == statistics.events - statistics.lost + statistics.duplicates


async def test_with_a_speed_no_event_arrives_before_its_time() -> None:
    speed = 30_000_000  # four months in a third of a second
    async with receiving() as receiver:
        started = time.monotonic()
        statistics = await _simulation(receiver.url, speed=speed).run()
    created = [int(str(event["created"])) for event in receiver.events]
    waits = [(at - min(created)) / speed for at in created]
    assert max(waits) > 0.2
    assert all(arrived - started >= wait for arrived, wait in zip(receiver.arrived, waits, strict=True))
    assert statistics.seconds >= max(waits)


async def test_an_outage_loses_what_happens_within_four_days_and_nothing_else() -> None:
    async with receiving() as receiver:
        simulation = _simulation(receiver.url, trouble=Trouble(outages=1))
        statistics = await simulation.run()
    arrived = {str(event["id"]) for event in receiver.events}
    lost = [one.created for one in simulation.company.stripe.events() if one.id not in arrived]
    assert len(lost) == statistics.lost > 0
    assert max(lost) - min(lost) < Trouble().outage_s
    inside = [event for event in receiver.events if min(lost) <= int(str(event["created"])) <= max(lost)]
    assert inside == []


async def test_a_refused_event_is_counted_and_not_sent_again() -> None:
    async with receiving(refuses="invoice.paid") as receiver:
        statistics = await _simulation(receiver.url).run()
    assert statistics.refused == Counter({"400 not that": statistics.types["invoice.paid"]})


async def test_an_endpoint_that_does_not_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.stripe.simulator.run.FIRST_PAUSE_S", 0.01)
    with pytest.raises(EndpointDoesNotAnswer, match="does not take the event"):
        await _simulation("http://127.0.0.1:9/hooks").run()


def _billing(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return clikit.billing(["simulate", *arguments], environment, timeout=120)


async def test_the_command_posts_to_any_endpoint_and_prints_statistics() -> None:
    async with receiving() as receiver:
        arguments = ("--to", receiver.url, "--customers", "5", "--months", "3", "--duplicates", "--disorder", "--json")
        done = await asyncio.to_thread(_billing, *arguments, BILLING_WEBHOOK_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    printed = orjson.loads(done.stdout)
    assert printed["posted"] == len(receiver.events) > printed["events"] > 0
    assert SECRET not in done.stdout + done.stderr


async def test_the_command_loses_what_falls_into_an_outage_at_a_speed() -> None:
    async with receiving() as receiver:
        arguments = ("--to", receiver.url, "--customers", "5", "--months", "3", "--outage", "--speed", "1e8", "--json")
        done = await asyncio.to_thread(_billing, *arguments, BILLING_WEBHOOK_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    printed = orjson.loads(done.stdout)
    assert printed["posted"] == len(receiver.events) == printed["events"] - printed["lost"]
    assert printed["lost"] > 0


def test_a_live_key_refuses_it() -> None:
    done = _billing(
        "--to", "http://127.0.0.1:9", BILLING_WEBHOOK_SECRET=SECRET, BILLING_STRIPE_API_KEY="sk_live_51Nothing"
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "live" in done.stderr


def test_without_a_secret_it_says_which() -> None:
    done = _billing("--to", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "BILLING_WEBHOOK_SECRET" in done.stderr
