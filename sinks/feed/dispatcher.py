"""Sends queued notifications, at least once and with the same `webhook-id` in each try.

A crash between a receiver's answer and the commit of `sent` repeats a notification: receivers drop a known id.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from schemas.feed_settings import TOPIC
from sinks.feed import receivers
from sinks.feed.answers import Answer, verdict_of
from sinks.feed.metrics import FeedMetrics
from sinks.feed.notifications import Notifications, QueuedNotification
from sinks.feed.pauses import Pauses
from sinks.feed.poster import Poster
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.pace import LoopPace
from sinks.outbox.verdicts import Failed, Verdict

log = structlog.get_logger(__name__)

LANES = 8
"""Concurrent requests. A receiver that is away is paused, so it does not take them all for long."""
_FEWEST = 2
"""Requests to one receiver at once, where there are others. With few receivers each has its part of the lanes."""


class FeedDispatcher(OutboxLoop[QueuedNotification]):
    """Sends notifications with `run` until stopped. `posters` has each destination by name."""

    action = "feed"
    store_check, service_check, lanes_check = "feed_outbox", None, "feed"
    row_action = "feed."
    down_action, up_action = "feed.paused", "feed.resumed"

    def __init__(
        self,
        notifications: Notifications,
        posters: Mapping[str, Poster],
        metrics: FeedMetrics,
        *,
        clock: Callable[[], datetime],
        disable_after: timedelta,
        ahead: Callable[[], timedelta] = timedelta,
        pace: LoopPace | None = None,
        lanes: int = LANES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(notifications, metrics, clock=clock, pace=pace or LoopPace(), lanes=lanes, chance=chance)
        self._posters = posters
        self._feed_metrics = metrics
        self._disable_after = disable_after
        self._ahead = ahead
        self._chance = chance
        at_once = max(_FEWEST, lanes // len(posters)) if len(posters) > 1 else None
        self._pauses = Pauses(chance, at_once=at_once)
        self._answers: dict[str, Answer] = {}
        notifications.paused = self._pauses.paused

    def note(self) -> str:
        """Return a text for operators: where notifications are sent."""
        return f"to {', '.join(self._posters)}" if self._posters else "off: the config has no feed"

    async def deliver(self, row: QueuedNotification, _lane: int) -> Verdict:
        poster = self._posters.get(row.destination)
        if poster is None:
            return Failed(f"the config has no destination {row.destination}")
        self._pauses.begin(row.destination)
        answer = Answer(0, "stopped during the request")
        try:
            answer = await poster.post(row)
        finally:
            self._pauses.end(row.destination, answer)
        self._answers[row.key] = answer
        is_topic = row.destination == TOPIC
        return verdict_of(answer, tries=row.attempts, age=row.age, chance=self._chance(), gives_up=not is_topic)

    def fields(self, row: QueuedNotification) -> Mapping[str, object]:
        return {
            "event_id": row.event_id,
            "customer": row.customer_id,
            "account": row.account,
            "destination": row.destination,
            "type": row.type,
            "version": row.version,
        }

    def kind(self, row: QueuedNotification) -> str | None:
        return row.type

    async def settled(self, row: QueuedNotification, _verdict: Verdict, seconds: float) -> None:
        answer = self._answers.pop(row.key, None)
        if answer is None:
            return
        async with self._claims.connection() as connection:
            if answer.is_accepted:
                self._feed_metrics.seconds.observe(seconds)
                await receivers.accepted(connection, row.destination, enables=row.destination == TOPIC)
                return
            is_disabled = await receivers.failed(
                connection,
                row.destination,
                str(answer),
                disable_after=self._limit(row.destination, answer),
                ahead=self._ahead(),
            )
        if is_disabled:
            log.error(
                "a receiver is disabled: billing feed enable continues",
                action="feed.disabled",
                destination=row.destination,
                reason=str(answer),
            )

    def _limit(self, destination: str, answer: Answer) -> timedelta | None:
        """Returns how long the destination may fail before it is disabled.

        The topic is never disabled: Kafka is part of the system, and what is queued is sent once it answers again.
        Each failed try is logged as `feed.retried`.
        """
        if destination == TOPIC:
            return None
        return timedelta(0) if answer.is_gone else self._disable_after

    async def watch(self) -> None:
        await super().watch()
        async with self._claims.connection() as connection:
            states = {state.destination: state for state in await receivers.states(connection)}
            now = await connection.fetchval("SELECT now() + $1::interval", self._ahead())
        for name in self._posters:
            state = states.get(name)
            since = state.failing_since if state is not None else None
            self._feed_metrics.failing.labels(name).set((now - since).total_seconds() if since is not None else 0)
            self._feed_metrics.disabled.labels(name).set(state is not None and state.disabled_at is not None)

    async def close(self) -> None:
        for poster in self._posters.values():
            await poster.close()
