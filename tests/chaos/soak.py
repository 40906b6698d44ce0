"""`python -m tests.chaos.soak`: load, faults and the checker on a running system, all derived from one seed.

history ─▶ traffic ─▶ the system, while faults are injected ─▶ quiet ─▶ checker ─▶ report, exit 1 on any finding
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from local.state_dir import make_private
from local.stripe.builder import Json
from tests.chaos import log
from tests.chaos.aftermath import Aftermath, run_aftermath
from tests.chaos.ending import TOPIC, Ending, Verdict, settings_with
from tests.chaos.faults import SESSION_TIMEOUT_S, FaultKind, Faults, Planned, kinds_named, schedule
from tests.chaos.history import PostedEvent, deliveries, in_order
from tests.chaos.postbox import Postbox
from tests.chaos.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.chaos.traffic import Traffic
from tests.kits.systemkit import RiggedSystem, running_system
from tests.waiting import eventually

Say = Callable[[str], None]

RECOVERED_WITHIN_S = 120.0


class NotRecovered(Exception):
    """The system did not apply the records accepted during a fault within the time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """Parameters of a run. `events` are distinct; a tenth more are posted as duplicates. `rate` is per second."""

    seed: int
    events: int
    customers: int
    faults: int
    kinds: Sequence[FaultKind] = tuple(FaultKind)
    workers: int = 3
    rate: float = 70.0
    pause_s: float = 20.0
    overlapping: bool = False
    """Whether a fault may start before the last one is recovered from. Faster, but recovery times mean nothing then."""
    aftermath: bool = False
    """Whether to rebuild and compare the database afterwards, and to replay every dead event after a fix."""


@dataclass(slots=True)
class SoakReport:
    plan: SoakPlan
    verdict: Verdict
    recoveries: dict[FaultKind, list[float]]
    """Seconds from the start of each fault until later records were applied and committed in every partition."""
    troubles: Counter[str]
    seconds: float
    aftermath: Aftermath | None = None

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and (self.aftermath is None or self.aftermath.is_clean)

    def text(self) -> str:
        plan = self.plan
        lines = [
            f"seed {plan.seed}: {plan.events} events of {plan.customers} customers, {plan.workers} workers, "
            f"{sum(map(len, self.recoveries.values()))} faults, {self.seconds:.0f} s of traffic",
            *self.verdict.lines(),
            f"{'answers other than 200':>24}  {dict(self.troubles) or 'none'}",
            "recovered within (median, longest; from the start of the fault):",
        ]
        for kind, seconds in sorted(self.recoveries.items()):
            lines.append(f"  {kind:<44} x{len(seconds):<3} {median(seconds):6.1f} s {max(seconds):6.1f} s")
        return "\n".join([*lines, *(self.aftermath.lines() if self.aftermath else ())])


async def run(plan: SoakPlan, folder: Path, say: Say) -> SoakReport:
    """Do the whole run in an empty folder. Raises NotRecovered, TimeoutError, Refused, NoSmallDisk."""
    lives = in_order(plan.seed, plan.events, plan.customers, int(time.time()))
    sent = deliveries(plan.seed, lives)
    async with Postbox(folder / "mail") as postbox:
        settings = settings_with(postbox) | {
            "BILLING_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "BILLING_BATCH_SIZE": "100",
        }
        with _disk_of_kafka(folder) if FaultKind.DISK_FULL in plan.kinds else nullcontext() as disk:
            begun = running_system(folder / "state", workers=plan.workers, settings=settings, say=say)
            system = await asyncio.to_thread(begun.__enter__)
            try:
                ending = Ending(system, postbox)
                report = await _Run(plan, system, postbox, say, ending, disk).report(lives, sent)
                if plan.aftermath:
                    say("rebuilding, comparing and replaying")
                    report.aftermath = await run_aftermath(system, ending)
                return report
            finally:
                await asyncio.to_thread(begun.__exit__, None, None, None)


@contextmanager
def _disk_of_kafka(folder: Path) -> Iterator[SmallDisk]:
    """Put the broker's log directory on a file system of its own. Raises NoSmallDisk."""
    with small_disk(folder / "small-disk") as disk:
        (disk.folder / "data").mkdir()
        make_private(folder / "state")  # as `billing up` makes it: an open directory with other files is refused
        home = folder / "state" / "kafka"
        home.mkdir()
        (home / "data").symlink_to(disk.folder / "data")
        yield disk


@dataclass(slots=True)
class _Run:
    plan: SoakPlan
    system: RiggedSystem
    postbox: Postbox
    say: Say
    ending: Ending
    disk: SmallDisk | None
    recoveries: dict[FaultKind, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def report(self, lives: list[list[Json]], sent: list[PostedEvent]) -> SoakReport:
        secret = self.system.config.endpoints["default"].secrets[0]
        traffic = Traffic(self.system.url_of("default"), secret, self.plan.rate)
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            flow = group.create_task(traffic.run(sent))
            group.create_task(self._strike_all(traffic, len(sent), flow))
        seconds = time.monotonic() - begun
        self.say(f"{traffic.answered} deliveries answered 200 in {seconds:.0f} s; waiting until all is quiet")
        begun = time.monotonic()
        await self.ending.become_quiet()
        self.say(f"all quiet after {time.monotonic() - begun:.0f} s; checking")
        return SoakReport(
            plan=self.plan,
            verdict=await self.ending.judge(traffic.accepted, lives),
            recoveries=dict(self.recoveries),
            troubles=traffic.troubles,
            seconds=seconds,
        )

    async def _strike_all(self, traffic: Traffic, total: int, flow: asyncio.Task[None]) -> None:
        async with asyncio.TaskGroup() as strikes:
            await self._strike_in_turn(traffic, total, flow, strikes)

    async def _strike_in_turn(
        self, traffic: Traffic, total: int, flow: asyncio.Task[None], strikes: asyncio.TaskGroup
    ) -> None:
        faults = Faults(self.system, self.postbox, self.disk, self.plan.pause_s)
        planned = schedule(self.plan.seed, total, self.plan.faults, self.plan.kinds)
        while planned:
            await self._until_answered(traffic, planned[0].at, flow)
            if flow.done():
                self.say(f"The traffic has ended before {len(planned)} faults: {', '.join(p.kind for p in planned)}")
                return
            self.say(f"{traffic.answered:>6} answered: {planned[0].kind}")
            strike = strikes.create_task(self._strike(faults, planned.pop(0), flow))
            if not self.plan.overlapping:
                await strike

    async def _until_answered(self, traffic: Traffic, count: int, flow: asyncio.Task[None]) -> None:
        await eventually(lambda: traffic.answered >= count or flow.done(), within_s=RECOVERED_WITHIN_S, every_s=0.2)

    async def _strike(self, faults: Faults, planned: Planned, flow: asyncio.Task[None]) -> None:
        """Inject the fault; measure until records accepted after it are applied and committed in every partition."""
        begun = time.monotonic()
        await faults.strike(planned)
        ends: dict[int, int] | None = None
        while ends is None:
            ends = await asyncio.to_thread(log.ends, self.system.kafka.bootstrap, TOPIC)
            self._check_in_time(planned, begun)
        while True:
            done = await asyncio.to_thread(self.ending.committed)
            if log.has_passed(done, ends, by=0 if flow.done() else 1):
                break
            self._check_in_time(planned, begun)
            await asyncio.sleep(0.2)
        self.recoveries[planned.kind].append(time.monotonic() - begun)

    def _check_in_time(self, planned: Planned, begun: float) -> None:
        if time.monotonic() - begun > RECOVERED_WITHIN_S:
            raise NotRecovered(f"{planned.kind}: lag {self.ending.lag()} after {RECOVERED_WITHIN_S:.0f} s")


def main(argv: list[str]) -> int:
    """Entry point. Returns 0 without findings, 1 with findings, 2 if a fault cannot be injected on this machine."""
    parser = argparse.ArgumentParser(prog="tests.chaos.soak", description="Load, faults, and a check of every row.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--faults", type=int, default=2 * len(FaultKind))
    parser.add_argument(
        "--only", type=kinds_named, default=list(FaultKind), help="parts of the faults' names, comma-separated"
    )
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=70.0, help="deliveries a second")
    asked = parser.parse_args(argv)
    plan = SoakPlan(
        seed=asked.seed,
        events=asked.events,
        customers=asked.customers,
        faults=asked.faults,
        kinds=asked.only,
        workers=asked.workers,
        rate=asked.rate,
        aftermath=True,
    )
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {line}", flush=True)  # noqa: T201 - the command's output

    say(f"seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="billing-soak-"))
    say(f"state, logs and mail are in {folder}, which is kept if there are findings")
    # Not on uvloop: its transports are not asyncio.Transport, so the faulty mailbox would not break connections off.
    try:
        report = asyncio.run(run(plan, folder, say))
    except NoSmallDisk as error:
        say(f"{error} (leave it out with --only and the names of other faults)")
        return 2
    print(report.text())  # noqa: T201 - the command's output
    if not report.is_clean:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
