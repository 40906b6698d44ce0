"""Checks of the worker's watchdog: do the offsets, the recovery and the changelog's producer make progress?

The offsets are read from the brokers, because Faust's own bookkeeping continues after a failed commit.
"""

from __future__ import annotations

import time
from typing import cast

import faust
from faust.tables import TableManager

from eventlog.lag import GroupPositions
from schemas.timing import Check, Stillness
from streams.agent import Agent
from streams.faust.commit_watch import CommitWatch
from streams.faust.seen import SeenEvents
from streams.faust.sensor import show_lag


class WorkerWatch:
    """The checks of one worker; called from the watchdog's thread."""

    def __init__(
        self,
        app: faust.App,
        agent: Agent,
        seen: SeenEvents,
        places: GroupPositions,
        topic: str,
        *,
        limit_s: float,
        join_s: float,
    ) -> None:
        """Both limits are in seconds. `join_s` is added for joining the group, which waits for a member that died."""
        self.is_up = False
        """The caller sets this once the app has started; before that, the app has no consumer."""
        self._app = app
        self._agent = agent
        self._seen = seen
        self._places = places
        self._topic = topic
        self._commits = CommitWatch(limit_s)
        self._recovery = Stillness(limit_s + join_s)
        self._changelog = Stillness(limit_s)
        self._does_kafka_answer: bool | None = None
        """None before the first request."""

    @property
    def checks(self) -> dict[str, Check]:
        """The checks by name, in the order to run them."""
        return {"offsets": self.offsets, "recovery": self.recovery, "changelog": self.changelog}

    def kafka_trouble(self) -> str | None:
        """For /readyz: the result of the last request to the brokers."""
        return "no broker returned the group's offsets" if self._does_kafka_answer is False else None

    def offsets(self) -> str | None:
        """Committed offsets do not move. Retries shown in /readyz and broker outages do not count as stuck."""
        assigned = self._app.consumer.assignment() if self.is_up else ()
        partitions = {tp.partition for tp in assigned if tp.topic == self._topic}
        places = self._places.read()
        self._does_kafka_answer = places is not None
        is_excused = self._is_settling or self._agent.troubled_since is not None
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
        since = self._seen.sent_and_unconfirmed_since()
        still = self._changelog.look(
            time.monotonic(), since, is_excused=since is None or self._is_settling or not self._does_kafka_answer
        )
        return None if still is None else f"the changelog's producer has confirmed nothing for {still:.0f} s"

    @property
    def _is_settling(self) -> bool:
        return not self.is_up or self._app.rebalancing or self._app.in_recovery


def _faust_trouble(app: faust.App, *, is_up: bool) -> str | None:
    """For /readyz. `is_up`: the app has started. Faust calls itself started before it has joined its group."""
    if app.crashed:
        return "Faust crashed"
    if not is_up or app.rebalancing or app.in_recovery:
        return "starting, rebalancing or recovering its table"
    return None
