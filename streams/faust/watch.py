"""What the watchdog of `billing worker` asks: do its offsets, its recovery and the changelog's producer move?

Offsets are the brokers' word: Faust's own bookkeeping goes on after a commit that failed.
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
        """`join_s` is what joining the group may take on top: a member that died is waited for."""
        self.is_up = False
        """To be set once the app has started: before that it has no consumer to ask."""
        self._app = app
        self._agent = agent
        self._seen = seen
        self._places = places
        self._topic = topic
        self._commits = CommitWatch(limit_s)
        self._recovery = Stillness(limit_s + join_s)
        self._changelog = Stillness(limit_s)
        self._does_kafka_answer: bool | None = None
        """None until it has been asked."""

    @property
    def checks(self) -> dict[str, Check]:
        """By name, in the order in which they are to be asked."""
        return {"offsets": self.offsets, "recovery": self.recovery, "changelog": self.changelog}

    def kafka_trouble(self) -> str | None:
        """For /readyz: what the brokers answered when they were last asked."""
        return "no broker tells where the group stands" if self._does_kafka_answer is False else None

    def offsets(self) -> str | None:
        """Trouble that the worker waits out in sight (/readyz, logs) is no stillness; nor is a broker's outage."""
        assigned = self._app.consumer.assignment() if self.is_up else ()
        ours = {tp.partition for tp in assigned if tp.topic == self._topic}
        places = self._places.read()
        self._does_kafka_answer = places is not None
        is_excused = self._is_settling or self._agent.troubled_since is not None
        of_ours = {partition: place for partition, place in (places or {}).items() if partition in ours}
        show_lag({partition: place.lag for partition, place in of_ours.items()})
        return self._commits.look(time.monotonic(), of_ours, is_excused=is_excused)

    def recovery(self) -> str | None:
        """Joining the group, or recovering the table, without a step forward."""
        app, recovery = self._app, cast("TableManager", self._app.tables).recovery
        step = (self.is_up, app.rebalancing_count, recovery.in_recovery, sum(recovery.active_offsets.values()))
        is_excused = not self._is_settling or not self._does_kafka_answer
        still = self._recovery.look(time.monotonic(), step, is_excused=is_excused)
        return None if still is None else f"neither rebalancing nor recovery has moved for {still:.0f} s"

    def changelog(self) -> str | None:
        """Pages that the producer neither delivers nor gives up, though the brokers answer us."""
        since = self._seen.sent_and_unconfirmed_since()
        still = self._changelog.look(
            time.monotonic(), since, is_excused=since is None or self._is_settling or not self._does_kafka_answer
        )
        return None if still is None else f"the changelog's producer has confirmed nothing for {still:.0f} s"

    @property
    def _is_settling(self) -> bool:
        return not self.is_up or self._app.rebalancing or self._app.in_recovery


def _faust_trouble(app: faust.App, *, is_up: bool) -> str | None:
    """`is_up`: whether its start is over. Faust calls itself started before it has joined its group."""
    if app.crashed:
        return "Faust crashed"
    if not is_up or app.rebalancing or app.in_recovery:
        return "starting, rebalancing or recovering its table"
    return None
