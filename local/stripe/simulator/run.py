"""Posts a company's events to an endpoint, signed, and counts what happened: the engine of `billing simulate`."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson
from pydantic import SecretStr

from local.stripe.builder import ApiShape
from local.stripe.post import post
from local.stripe.simulator.books import StripeEvent
from local.stripe.simulator.company import Company
from local.stripe.simulator.delivery import DeliveryAttempt, Trouble, plan_delivery
from local.stripe.simulator.prices import PLANS
from schemas.errors import ServiceUnavailable
from schemas.ordering import ordering_key
from schemas.settings import FREE_PLAN, Config

LANES = 16
"""Customers are posted side by side, one customer's events one after another."""
TRIES = 6
FIRST_PAUSE_S = 0.5


class EndpointDoesNotAnswer(ServiceUnavailable):
    """The endpoint was asked TRIES times and could not be reached. The message names it and the last error."""


@dataclass(slots=True)
class Statistics:
    """What a simulation did."""

    lives: int = 0
    events: int = 0
    types: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    """Subscriptions by their status at the end."""
    posted: int = 0
    duplicates: int = 0
    lost: int = 0
    """Events that fell into an outage and were not posted: reconciliation has to find them."""
    retries: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Posts that were refused for good, by answer."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """`speed` is simulated seconds per second, 0 for as fast as the endpoint answers. `prices` renames price ids."""

    company: Company
    url: str
    secret: SecretStr
    trouble: Trouble
    shape: ApiShape = ApiShape.NEW
    speed: float = 0.0
    prices: Mapping[str, str] = field(default_factory=dict)

    async def run(self) -> Statistics:
        """Lives the lives, then posts. Raises EndpointDoesNotAnswer."""
        events = [event for event in self.company.run() if event.is_in(self.shape)]
        plan = plan_delivery(events, self.trouble, str(self.company.seed))
        stats = self._statistics(events)
        stats.lost = len(plan.lost)
        stats.duplicates = len(plan.deliveries) - (len(events) - len(plan.lost))
        started, problem = time.monotonic(), ""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=LANES)) as session:
            lanes = self._lanes(plan.deliveries)
            try:
                async with asyncio.TaskGroup() as group:
                    for lane in lanes:
                        group.create_task(self._post_lane(session, lane, stats, plan.deliveries[0].at, started))
            except* EndpointDoesNotAnswer as problems:
                problem = str(problems.exceptions[0])
        if problem:
            raise EndpointDoesNotAnswer(problem)
        stats.seconds = time.monotonic() - started
        return stats

    def _statistics(self, events: Sequence[StripeEvent]) -> Statistics:
        subscriptions = [one for books in self.company.stripe.accounts.values() for one in books.all("subscription")]
        return Statistics(
            lives=self.company.customers,
            events=len(events),
            types=Counter(event.type for event in events),
            steps=self.company.steps,
            transitions=self.company.transitions(),
            statuses=Counter(one["status"] for one in subscriptions),
        )

    def _lanes(self, deliveries: Iterable[DeliveryAttempt]) -> list[list[tuple[int, bytes]]]:
        """The bodies by customer, so that one customer's events keep the order of the plan."""
        lanes: list[list[tuple[int, bytes]]] = [[] for _ in range(LANES)]
        for delivery in deliveries:
            event = delivery.event.render(self.shape)
            body = renamed(orjson.dumps(event), self.prices)
            lanes[zlib.crc32(ordering_key(event).encode()) % LANES].append((delivery.at, body))
        return [lane for lane in lanes if lane]

    async def _post_lane(
        self,
        session: aiohttp.ClientSession,
        lane: Sequence[tuple[int, bytes]],
        stats: Statistics,
        first: int,
        started: float,
    ) -> None:
        for at, body in lane:
            if self.speed:
                await asyncio.sleep(max(0.0, started + (at - first) / self.speed - time.monotonic()))
            await self._post(session, body, stats)

    async def _post(self, session: aiohttp.ClientSession, body: bytes, stats: Statistics) -> None:
        """Tries again where Stripe would; a 4xx is final."""
        pause, problem = FIRST_PAUSE_S, ""
        for _ in range(TRIES):
            try:
                answer = await post(session, self.url, body, self.secret)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status == 200:
                    stats.posted += 1
                    return
                if answer.status < 500 and answer.status != 429:
                    stats.refused[f"{answer.status} {answer.reason}".strip()] += 1
                    return
                problem = f"{answer.status} {answer.reason}".strip()
            stats.retries += 1
            await asyncio.sleep(pause)
            pause *= 2
        raise EndpointDoesNotAnswer(f"{self.url} does not take the event: {problem}")


def renamed(body: bytes, prices: Mapping[str, str]) -> bytes:
    """Returns the event with other price ids."""
    if not prices:
        return body
    pattern = re.compile(b'"(' + b"|".join(re.escape(name.encode()) for name in prices) + b')"')
    return pattern.sub(lambda found: orjson.dumps(prices[found[1].decode()]), body)


def prices_of(config: Config) -> dict[str, str]:
    """The simulator's prices → those of the config: its smaller plan is the first paid one, its larger the last."""
    paid = [plan.prices for name, plan in config.plans.items() if name != FREE_PLAN and plan.prices]
    if not paid:
        return {}
    named: dict[str, str] = {}
    for plan, prices in (("pro", paid[0]), ("team", paid[-1])):
        named |= dict(zip(PLANS[plan], prices, strict=False))
    return named
