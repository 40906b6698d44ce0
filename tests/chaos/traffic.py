"""Post deliveries as Stripe does: signed, concurrent, each repeated until it is answered 200."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
from pydantic import SecretStr

from local.stripe.post import post
from tests.chaos.history import PostedEvent

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class EventRefused(Exception):
    """The gateway answered 4xx to a valid event."""


@dataclass(slots=True)
class Traffic:
    """Posts all deliveries, at most `rate` a second over `connections` connections."""

    url: str
    secret: SecretStr
    rate: float
    connections: int = 24
    accepted: set[str] = field(default_factory=set)
    """Ids that were answered 200."""
    answered: int = 0
    """Deliveries that were answered 200."""
    troubles: Counter[str] = field(default_factory=Counter)
    """Answers other than 200 and broken connections, by kind."""

    async def run(self, deliveries: Sequence[PostedEvent]) -> None:
        """Return when all are answered 200. Raises Refused."""
        queue = iter(deliveries)
        loop = asyncio.get_running_loop()
        self._next_at = loop.time()
        connector = aiohttp.TCPConnector(limit=self.connections)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for _ in range(self.connections):
                group.create_task(self._post_all(session, queue))

    _next_at: float = 0.0

    async def _post_all(self, session: aiohttp.ClientSession, queue: Iterator[PostedEvent]) -> None:
        loop = asyncio.get_running_loop()
        for delivery in queue:
            # Deliveries delayed by an outage are not all sent at once: Stripe spreads its retries too.
            self._next_at = max(self._next_at + 1 / self.rate, loop.time() - 1.0)
            await asyncio.sleep(self._next_at - loop.time())
            await self._deliver(session, delivery)

    async def _deliver(self, session: aiohttp.ClientSession, delivery: PostedEvent) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                answer = await post(session, self.url, delivery.body, self.secret)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.troubles[type(error).__name__] += 1
            else:
                if answer.status == 200:
                    self.accepted.add(delivery.event_id)
                    self.answered += 1
                    return
                if answer.status < 500:
                    raise EventRefused(f"{delivery.event_id}: {answer.status} {answer.reason}")
                self.troubles[str(answer.status)] += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
