"""What a consumer's watchdog and /readyz check: do offsets, group, table and changelog's producer make progress?

The offsets are read from the brokers, because Faust's own bookkeeping continues after a failed commit.
"""

from __future__ import annotations

import time
from typing import cast

from faust.tables import TableManager

from eventlog.lag import GroupPositions
from eventlog.topic_settings import TopicIdentity
from schemas.errors import LogUnavailable
from schemas.timing import Check, Stillness
from streams.faust.app import App
from streams.faust.commit_watch import CommitWatch
from streams.faust.consume import BatchRetry
from streams.faust.seen import SeenEvents
from streams.faust.sensor import show_lag

STUCK_S = 60.0
"""/readyz reports a batch that has been retried for more than this many seconds."""


class ConsumerWatch:
    """The checks of one consumer. The watchdog's run in its thread, those of /readyz in the event loop."""

    def __init__(
        self,
        app: App,
        retry: BatchRetry,
        places: GroupPositions,
        topic: str,
        *,
        limit_s: float,
        join_s: float,
        seen: SeenEvents | None = None,
        identity: TopicIdentity | None = None,
        topic_id: str | None = None,
    ) -> None:
        """Both limits are in seconds. `join_s` is added for joining the group, which waits for a member that died.

        `identity` reads the topic's id, which was `topic_id` at the start.
        """
        self.is_up = False
        """The caller sets this once the app has started, which includes joining the group. Faust calls itself started
        before that, while the app has no consumer yet."""
        self._app = app
        self._retry = retry
        self._seen = seen
        self._places = places
        self._topic = topic
        self._commits = CommitWatch(limit_s)
        self._recovery = Stillness(limit_s + join_s)
        self._changelog = Stillness(limit_s)
        self._identity = identity
        self._topic_id = topic_id
        self._topic_trouble: str | None = None
        self._does_kafka_answer: bool | None = None
        """None before the first request."""

    @property
    def checks(self) -> dict[str, Check]:
        """The watchdog's checks by name, in the order to run them."""
        return {
            "topic": self.topic,
            "offsets": self.offsets,
            "recovery": self.recovery,
            "changelog": self.changelog,
        }

    @property
    def ready(self) -> dict[str, Check]:
        """The checks of /readyz by name."""
        return {
            "kafka": self.kafka_trouble,
            "topic": lambda: self._topic_trouble,
            "faust": self.faust_trouble,
            "batches": self.batch_trouble,
        }

    def stopped(self) -> str | None:
        """Why Faust has stopped by itself, or None while it runs. The process should exit then."""
        if self._app.crashed or self._app.should_stop:
            return f"Faust stopped: {self._app.crash_reason!r}"
        return None

    def kafka_trouble(self) -> str | None:
        """For /readyz: the result of the last request to the brokers."""
        return "no broker returned the group's offsets" if self._does_kafka_answer is False else None

    def topic(self) -> str | None:
        """The topic was created again: aiokafka does not read it, and its offsets mean other records.

        While it is missing the process is only not ready, because it could not start either.
        """
        if self._identity is None:
            return None
        try:
            found = self._identity.read()
        except LogUnavailable:
            return None  # `kafka_trouble` reports it
        if found is None:
            self._topic_trouble = f"there is no topic {self._topic}: run billing topics"
        elif found != self._topic_id:
            self._topic_trouble = f"{self._topic} was deleted and created again: the next start reads it"
            return self._topic_trouble
        else:
            self._topic_trouble = None
        return None

    def offsets(self) -> str | None:
        """Committed offsets do not move. Retries shown in /readyz and broker outages do not count as stuck."""
        assigned = self._app.consumer.assignment() if self.is_up else ()
        partitions = {tp.partition for tp in assigned if tp.topic == self._topic}
        places = self._places.read()
        self._does_kafka_answer = places is not None
        is_excused = self._is_settling or self._retry.since is not None
        own_places = {partition: place for partition, place in (places or {}).items() if partition in partitions}
        show_lag({partition: place.lag for partition, place in own_places.items()})
        return self._commits.look(time.monotonic(), own_places, is_excused=is_excused)

    def recovery(self) -> str | None:
        """Joining the group or recovering the table makes no progress."""
        app, recovery = self._app, cast("TableManager", self._app.tables).recovery
        step = (self.is_up, app.rebalancing_count, recovery.in_recovery, sum(recovery.active_offsets.values()))
        is_excused = not self._is_settling or not self._does_kafka_answer
        still = self._recovery.look(time.monotonic(), step, is_excused=is_excused)
        return None if still is None else f"neither rebalancing nor recovery has made progress for {still:.0f} s"

    def changelog(self) -> str | None:
        """The producer neither delivers nor drops pages, although the brokers answer."""
        since = self._seen.sent_and_unconfirmed_since() if self._seen else None
        still = self._changelog.look(
            time.monotonic(), since, is_excused=since is None or self._is_settling or not self._does_kafka_answer
        )
        return None if still is None else f"the changelog's producer has confirmed nothing for {still:.0f} s"

    def faust_trouble(self) -> str | None:
        """For /readyz: the group is not joined, or is rebalancing, or the table is not recovered."""
        if self._app.crashed:
            return "Faust crashed"
        return "starting, rebalancing or recovering its table" if self._is_settling else None

    def batch_trouble(self) -> str | None:
        """For /readyz: a batch has been failing for a while."""
        since = self._retry.since
        if since is not None and time.monotonic() - since > STUCK_S:
            return f"held up for {time.monotonic() - since:.0f} s: {self._retry.error}"
        return None

    @property
    def _is_settling(self) -> bool:
        return not self.is_up or self._app.rebalancing or self._app.in_recovery
