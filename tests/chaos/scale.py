"""`python -m tests.chaos.scale`: add, remove and kill workers under constant load, and measure each partition's pauses.

history ─▶ traffic ─▶ the system, while its group changes ─▶ quiet ─▶ checker and standstills ─▶ report, exit code
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from local.stripe.builder import Json
from tests.chaos import log
from tests.chaos.ending import TOPIC, Ending, Verdict, settings_with
from tests.chaos.history import PostedEvent, deliveries, in_order
from tests.chaos.postbox import Postbox
from tests.chaos.standstill import LaneEvent, Longest, longest_between, standstills
from tests.chaos.traffic import Traffic
from tests.kits.systemkit import RiggedSystem, fetch, running_system
from tests.waiting import eventually

Say = Callable[[str], None]

_TAKES_S = 5.0
"""Estimated time of one change on a busy machine. Deliveries that are left over are sent at the end."""
OWN = "invoices"
"""The stream that gets a consumer group of its own."""


_CAUGHT_UP_WITHIN_S = 120.0
_IN_SYNC_WITHIN_S = 60.0
_REST_RATE = 300.0
"""Deliveries a second after the measurement, unless the rate is higher already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """Parameters of a run. After each change the load goes on for `hold_s` seconds at `rate` deliveries a second."""

    seed: int
    customers: int = 400
    workers: Sequence[int] = (1, 2, 4, 2, 1)
    """Number of workers after each step."""
    hold_s: float = 15.0
    rate: float = 100.0
    brokers: int = 1
    kill_worker: bool = False
    kill_broker: bool = False
    restart_worker: bool = False
    own_group: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def deliveries(self) -> int:
        """Enough for the whole run."""
        extra = self.kill_worker + 3 * self.kill_broker + self.restart_worker + 2 * self.own_group
        return round(self.rate * (self.hold_s + _TAKES_S) * (len(self.workers) + extra))


@dataclass(frozen=True, slots=True)
class GroupChange:
    """A change of the group: its name, its time (seconds since the epoch) and its duration."""

    name: str
    at: float
    took_s: float


@dataclass(slots=True)
class ScaleReport:
    plan: ScalePlan
    changes: list[tuple[GroupChange, Longest]]
    verdict: Verdict
    troubles: Counter[str]
    seconds: float

    def text(self) -> str:
        plan = self.plan
        count = "one broker" if plan.brokers == 1 else f"{plan.brokers} brokers"
        return "\n".join(
            [
                f"seed {plan.seed}: {plan.customers} customers, {plan.rate:g} deliveries/s, {count}, "
                f"{self.seconds:.0f} s of traffic",
                *self.verdict.lines(),
                f"{'answers other than 200':>24}  {dict(self.troubles) or 'none'}",
                "seconds without an application while work waited, by partition:",
                f"  {'change':<42} {'took':>6} {'longest':>8} {'median':>7} {'> 1 s':>6}",
                *(
                    f"  {change.name:<42} {change.took_s:6.1f} {longest.worst:8.1f} {longest.middle:7.1f} "
                    f"{longest.longer_than(1.0):3} of {len(longest.seconds)}"
                    for change, longest in self.changes
                ),
            ]
        )


async def run(plan: ScalePlan, folder: Path, say: Say) -> ScaleReport:
    """Do the whole run in an empty folder. Raises TimeoutError, Refused, ServerNotReady."""
    lives = in_order(plan.seed, plan.deliveries, plan.customers, int(time.time()))
    sent = deliveries(plan.seed, lives)
    async with Postbox(folder / "mail") as postbox:
        begun = running_system(
            folder / "state",
            workers=plan.workers[0],
            brokers=plan.brokers,
            settings={**settings_with(postbox), **plan.settings},
            say=say,
        )
        system = await asyncio.to_thread(begun.__enter__)
        try:
            return await _Run(plan, system, say, Ending(system, postbox)).report(lives, sent)
        finally:
            await asyncio.to_thread(begun.__exit__, None, None, None)


@dataclass(slots=True)
class _Run:
    plan: ScalePlan
    system: RiggedSystem
    say: Say
    ending: Ending
    changes: list[GroupChange] = field(default_factory=list)

    async def report(self, lives: list[list[Json]], sent: list[PostedEvent]) -> ScaleReport:
        secret = self.system.config.endpoints["default"].secrets[0]
        traffic = Traffic(self.system.url_of("default"), secret, self.plan.rate)
        begun = time.monotonic()
        flow = asyncio.create_task(traffic.run(sent))
        try:
            await self._change_all(flow)
            ended = time.time()
            # If the history were cut off here, some events would wait forever for others that are never sent.
            traffic.rate = max(traffic.rate, _REST_RATE)
            await flow
        finally:
            flow.cancel()
        seconds = time.monotonic() - begun
        self.say(f"{traffic.answered} deliveries answered 200; waiting until all is quiet")
        await self.ending.become_quiet()
        still = standstills(await _steps(self.system, OWN if self.plan.own_group else ""))
        ends = [*(change.at for change in self.changes[1:]), ended]
        return ScaleReport(
            plan=self.plan,
            changes=[
                (change, longest_between(still, change.at, end)) for change, end in zip(self.changes, ends, strict=True)
            ],
            verdict=await self.ending.judge(traffic.accepted, lives),
            troubles=traffic.troubles,
            seconds=seconds,
        )

    async def _change_all(self, flow: asyncio.Task[None]) -> None:
        plan = self.plan
        await self._change(f"{plan.workers[0]} worker(s), nothing changes", _no_change, flow)
        steps = list(pairwise(plan.workers))
        for before, after in steps[:-1]:
            await self._change(f"{before} to {after} workers", partial(self._scale, before, after), flow)
        if plan.restart_worker:
            await self._change("SIGTERM to one worker, and its restart", self._restart, flow)
        if plan.kill_worker:
            await self._change("kill -9 one worker", lambda: self._kill("worker-1"), flow)
        for before, after in steps[-1:]:
            await self._change(f"{before} to {after} workers", partial(self._scale, before, after), flow)
        if plan.own_group:
            await self._change(f"a group of its own for {OWN}, joining", self._begin_own_group, flow)
            await self._change(f"the rest restarted without {OWN}", self._leave_to_own_group, flow)
        if plan.kill_broker:
            for node in self.system.kafka.nodes:
                await eventually(self._is_in_sync, within_s=_IN_SYNC_WITHIN_S, every_s=0.2)
                await self._change(f"kill -9 {node.name}", partial(self._kill, node.name), flow)

    async def _change(self, name: str, change: Callable[[], Awaitable[object]], flow: asyncio.Task[None]) -> None:
        at, begun = time.time(), time.monotonic()
        await change()
        took = time.monotonic() - begun
        self.changes.append(GroupChange(name, at, took))
        self.say(f"{name}: {took:.1f} s")
        await asyncio.wait([flow], timeout=self.plan.hold_s)
        if flow.done():
            flow.result()
            raise TimeoutError(f"all deliveries were sent before the end of: {name}")

    async def _scale(self, before: int, after: int) -> None:
        """Workers that join start at the same time; workers that leave stop one after the other, as in a deploy."""
        if after > before:
            numbers = range(before + 1, after + 1)
            names = await asyncio.gather(*(asyncio.to_thread(self.system.add_worker, number) for number in numbers))
            await asyncio.gather(*(asyncio.to_thread(self.system.wait_ready, name) for name in names))
        for number in range(before, after, -1):
            await asyncio.to_thread(self.system.terminate, f"worker-{number}")

    async def _restart(self) -> None:
        await asyncio.to_thread(self.system.terminate, "worker-1")
        await asyncio.to_thread(self.system.start_again, "worker-1")
        await asyncio.to_thread(self.system.wait_ready, "worker-1")

    async def _kill(self, name: str) -> None:
        await asyncio.to_thread(self.system.kill, name)

    async def _is_in_sync(self) -> bool:
        return await asyncio.to_thread(log.is_in_sync, self.system.kafka.bootstrap, TOPIC, self.plan.brokers)

    async def _begin_own_group(self) -> None:
        """Start the group at the beginning of the log, and wait until it has passed the log's present end.

        Raises TimeoutError.
        """
        await asyncio.to_thread(self.system.add_worker, max(self.plan.workers) + 1, OWN)
        self.ending.streams.append(frozenset({OWN}))
        ends = await asyncio.to_thread(log.ends, self.system.kafka.bootstrap, TOPIC)

        async def has_caught_up() -> bool:
            committed = await asyncio.to_thread(self.ending.committed, frozenset({OWN}))
            return log.has_passed(committed, ends or {})

        await eventually(has_caught_up, within_s=_CAUGHT_UP_WITHIN_S, every_s=0.2)

    async def _leave_to_own_group(self) -> None:
        for number in range(1, self.plan.workers[-1] + 1):
            name = await asyncio.to_thread(self.system.add_worker, number, "--without", OWN)
            await asyncio.to_thread(self.system.wait_ready, name)


async def _no_change() -> None:
    """Load without a change, for comparison."""


_STEPS = """
SELECT "partition", stream = $1 AS own, extract(epoch FROM received_at)::float8 AS received_at,
       extract(epoch FROM applied_at)::float8 AS applied_at
FROM billing.events AS e
WHERE source = 'stripe' AND NOT EXISTS (SELECT FROM billing.timers WHERE kind = 'retry' AND subject = e.event_id)
"""
"""Leaves out events that waited for a reference: they are applied late although the partition did not pause."""


async def _steps(system: RiggedSystem, own: str) -> list[LaneEvent]:
    rows = await fetch(system, _STEPS, own)
    return [LaneEvent((row["partition"], row["own"]), row["received_at"], row["applied_at"]) for row in rows]


def main(argv: list[str]) -> int:
    """Entry point. Returns 0 if there are no findings, else 1."""
    parser = argparse.ArgumentParser(prog="tests.chaos.scale", description="Workers come and go under load.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--workers", default="1,2,4,2,1", help="numbers of workers, comma-separated")
    parser.add_argument("--hold", type=float, default=15.0, help="seconds under load after each change")
    parser.add_argument("--rate", type=float, default=100.0, help="deliveries a second")
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    parser.add_argument("--restart-worker", action="store_true", help="stop one worker with SIGTERM and start it again")
    parser.add_argument("--kill-worker", action="store_true", help="kill -9")
    parser.add_argument(
        "--kill-broker", action="store_true", help="kill -9 each of the three brokers, one after the other"
    )
    parser.add_argument("--own-group", action="store_true", help=f"{OWN} gets its own group at the end")
    parser.add_argument("--set", action="append", default=[], metavar="BILLING_X=Y", help="a setting for all processes")
    parser.add_argument("--keep", action="store_true", help="keep the folder even without findings")
    asked = parser.parse_args(argv)
    if asked.kill_broker and asked.brokers == 1:
        parser.error("--kill-broker needs --brokers 3")
    plan = ScalePlan(
        seed=asked.seed,
        workers=[int(count) for count in asked.workers.split(",")],
        hold_s=asked.hold,
        rate=asked.rate,
        brokers=asked.brokers,
        kill_worker=asked.kill_worker,
        kill_broker=asked.kill_broker,
        restart_worker=asked.restart_worker,
        own_group=asked.own_group,
        settings=dict(pair.split("=", 1) for pair in asked.set),
    )
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {line}", flush=True)  # noqa: T201 - the command's output

    folder = Path(tempfile.mkdtemp(prefix="billing-scale-"))
    say(f"seed {plan.seed}; state, logs and mail are in {folder}, which is kept if there are findings")
    # Not on uvloop: its transports are not asyncio.Transport, so the faulty mailbox would not break connections off.
    report = asyncio.run(run(plan, folder, say))
    print(report.text())  # noqa: T201 - the command's output
    if not report.verdict.is_clean:
        return 1
    if not asked.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
