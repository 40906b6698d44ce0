"""Measures how long partitions make no progress after one of two workers is killed during a backlog."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

from bench.drain import filled, worker_of
from bench.figures import Figures
from bench.load import Load
from bench.place import BenchServers, Site
from eventlog.lag import GroupPositions
from local.waiting import wait_until
from streams.faust.app import group_of

KILLED = "kill -9 of a worker to all partitions moving"
KILLED_AND_RESTARTED = "the same with a member id, restarted at once"
_WITHIN_S = 90.0


async def recovery(place: BenchServers, figures: Figures, rounds: int, events: int) -> None:
    """Measure the seconds from kill -9 until every partition with a backlog has committed again.

    Once the worker stays away; once it has a member id and starts again at once, as a supervisor does it.
    """
    for _ in range(rounds):
        for restarts in (False, True):
            site = await filled(place, Load(events))
            await asyncio.to_thread(_kill_one, site, figures, restarts=restarts)


def _kill_one(site: Site, figures: Figures, *, restarts: bool) -> None:
    settings = site.settings
    places = GroupPositions(settings.kafka, group_of(settings.topic_prefix, frozenset()), settings.events_topic)

    def committed() -> dict[int, int]:
        return {number: found.committed for number, found in (places.read() or {}).items()}

    try:
        member = {"BILLING_MEMBER_ID": "dying"} if restarts else {}
        with ExitStack() as stack:
            stack.enter_context(worker_of(site, "staying"))
            dying = stack.enter_context(worker_of(site, "dying", **member))
            wait_until(lambda: min(committed().values(), default=0) > 0, "both at work", within_s=_WITHIN_S)
            dying.kill()
            killed, before = time.monotonic(), places.read() or {}
            open_ = {number for number, found in before.items() if found.lag > 0}
            if len(open_) < len(before):
                raise RuntimeError("the backlog was too short: a partition had no lag left when the worker was killed")

            def has_moved() -> bool:
                now = committed()
                return all(now.get(number, 0) > before[number].committed for number in open_)

            if restarts:
                stack.enter_context(worker_of(site, "dying", **member))
            wait_until(has_moved, "every partition to move", within_s=_WITHIN_S)
            figures.add(KILLED_AND_RESTARTED if restarts else KILLED, time.monotonic() - killed, "s")
    finally:
        places.close()
