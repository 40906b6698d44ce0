"""`python -m tests.chaos.soak`: load, faults and the checker over one running system, all of it from a seed.

history ─▶ traffic ─▶ the system, struck by faults ─▶ all quiet ─▶ checker ─▶ report, exit 1 on any finding
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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path
from statistics import median

import orjson

from local.stripe_events import Json
from schemas.state import Timer
from sinks.outbox.claims import CLAIM
from streams.app import group_of
from streams.catalog import RULES
from streams.fold import Fold
from streams.record import Record
from tests.chaos import log
from tests.chaos.checker import Findings, Post, Tables, check, differing_rows, read_tables
from tests.chaos.faults import SESSION_TIMEOUT_S, Faults, Kind, Planned, kinds_named, schedule
from tests.chaos.history import Delivery, deliveries, in_order
from tests.chaos.postbox import Postbox
from tests.chaos.traffic import Traffic
from tests.systemkit import RiggedSystem, fetch, running_system

Say = Callable[[str], None]

RECOVERED_WITHIN_S = 120.0
QUIET_WITHIN_S = 300.0


class NotRecovered(Exception):
    """What was accepted before a fault was not applied within the bound after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run. `events` are distinct ones; a tenth more are posted, as duplicates. `rate` is per second."""

    seed: int
    events: int
    customers: int
    faults: int
    kinds: Sequence[Kind] = tuple(Kind)
    workers: int = 3
    rate: float = 70.0
    pause_s: float = 20.0
    overlapping: bool = False
    """Whether the next fault may strike before the last has been recovered from: quicker, but nothing to measure by."""


@dataclass(slots=True)
class Report:
    plan: Plan
    findings: Findings
    converged: list[str]
    """Rows that are otherwise than the same events in the order in which they happened would have made them."""
    recoveries: dict[Kind, list[float]]
    """Seconds from each fault's beginning until what came after it was applied and committed in every partition."""
    troubles: Counter[str]
    seconds: float
    lag: dict[int, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return self.findings.is_clean and not self.converged and not any(self.lag.values())

    def text(self) -> str:
        plan = self.plan
        lines = [
            f"seed {plan.seed}: {plan.events} events of {plan.customers} customers, {plan.workers} workers, "
            f"{sum(map(len, self.recoveries.values()))} faults, {self.seconds:.0f} s of traffic",
            *self.findings.lines(),
            f"{'not as in true order':>24}  {len(self.converged)}",
            *(f"{'':>26}{example}" for example in self.converged[:5]),
            f"{'uncommitted records':>24}  {sum(self.lag.values())}",
            f"{'answers but 200':>24}  {dict(self.troubles) or 'none'}",
            "recovered within (median, longest; from the beginning of the fault):",
        ]
        for kind, seconds in sorted(self.recoveries.items()):
            lines.append(f"  {kind:<44} x{len(seconds):<3} {median(seconds):6.1f} s {max(seconds):6.1f} s")
        return "\n".join(lines)


async def run(plan: Plan, folder: Path, say: Say) -> Report:
    """The whole run in an empty folder. Raises NotRecovered, TimeoutError, Refused."""
    lives = in_order(plan.seed, plan.events, plan.customers, int(time.time()))
    sent = deliveries(plan.seed, lives)
    async with Postbox(folder / "mail") as postbox:
        settings = {
            "BILLING_SMTP_URL": postbox.url,
            "BILLING_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "BILLING_STRIPE_API_KEY": "",
            "BILLING_STRIPE_API_BASE": "http://127.0.0.1:9",  # nobody listens there
            "BILLING_LOG_LEVEL": "warning",
            "BILLING_BATCH_SIZE": "100",
        }
        begun = running_system(folder / "state", workers=plan.workers, settings=settings, say=say)
        system = await asyncio.to_thread(begun.__enter__)
        try:
            return await _Run(plan, system, postbox, say).report(lives, sent)
        finally:
            await asyncio.to_thread(begun.__exit__, None, None, None)


@dataclass(slots=True)
class _Run:
    plan: Plan
    system: RiggedSystem
    postbox: Postbox
    say: Say
    recoveries: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def report(self, lives: list[list[Json]], sent: list[Delivery]) -> Report:
        config = self.system.config
        traffic = Traffic(self.system.url_of("default"), config.endpoints["default"].secrets[0], self.plan.rate)
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            flow = group.create_task(traffic.run(sent))
            group.create_task(self._strike_all(traffic, len(sent), flow))
        seconds = time.monotonic() - begun
        self.say(f"{traffic.answered} deliveries answered 200 in {seconds:.0f} s; waiting until all is quiet")
        begun = time.monotonic()
        await self._become_quiet()
        self.say(f"all quiet after {time.monotonic() - begun:.0f} s; checking")
        records = await asyncio.to_thread(log.read_all, self.system.kafka.bootstrap, self._topic)
        fold = Fold(config, RULES).take_all(records)
        fold.settle()
        tables = await read_tables(self.system.postgres.url)
        _, domain = parseaddr(config.mail.sender)[1].split("@")
        post = Post(self.postbox.folder, domain, self.postbox.cut_off)
        return Report(
            plan=self.plan,
            findings=check(traffic.accepted, records, fold, tables, post),
            converged=_otherwise_than_in_order(lives, fold, tables),
            recoveries=dict(self.recoveries),
            troubles=traffic.troubles,
            seconds=seconds,
            lag=await asyncio.to_thread(self._lag),
        )

    async def _strike_all(self, traffic: Traffic, total: int, flow: asyncio.Task[None]) -> None:
        async with asyncio.TaskGroup() as strikes:
            await self._strike_in_turn(traffic, total, flow, strikes)

    async def _strike_in_turn(
        self, traffic: Traffic, total: int, flow: asyncio.Task[None], strikes: asyncio.TaskGroup
    ) -> None:
        faults = Faults(self.system, self.postbox, self.plan.pause_s)
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
        await _until(lambda: traffic.answered >= count or flow.done(), RECOVERED_WITHIN_S)

    async def _strike(self, faults: Faults, planned: Planned, flow: asyncio.Task[None]) -> None:
        """The fault, and the time until events that were accepted after it are applied and committed, everywhere."""
        begun = time.monotonic()
        await faults.strike(planned)
        ends: dict[int, int] | None = None
        while ends is None:
            ends = await asyncio.to_thread(log.ends, self.system.kafka.bootstrap, self._topic)
            self._check_in_time(planned, begun)
        while True:
            done = await asyncio.to_thread(self._committed)
            if log.has_passed(done, ends, by=0 if flow.done() else 1):
                break
            self._check_in_time(planned, begun)
            await asyncio.sleep(0.2)
        self.recoveries[planned.kind].append(time.monotonic() - begun)

    def _check_in_time(self, planned: Planned, begun: float) -> None:
        if time.monotonic() - begun > RECOVERED_WITHIN_S:
            raise NotRecovered(f"{planned.kind}: lag {self._lag()} after {RECOVERED_WITHIN_S:.0f} s")

    async def _become_quiet(self) -> None:
        """Until every record is committed, every due timer has fired, and every mail is sent or failed."""
        self.postbox.take_back_faults()
        await asyncio.gather(
            *(asyncio.to_thread(self.system.wait_ready, name) for name in self.system.parts if _is_ours(name))
        )

        async def is_quiet() -> bool:
            await self._hasten()
            (open_,) = await fetch(self.system, _OPEN)
            lag = await asyncio.to_thread(self._lag)
            return not any(open_.values()) and not any(lag.values())

        await _until(is_quiet, QUIET_WITHIN_S)

    async def _hasten(self) -> None:
        """Lets the minutes pass that a mail waits after a failure or for a dispatcher that died (or lost Postgres) with
        it in hand, and those that an event waits for what it refers to."""
        claims = await fetch(self.system, "SELECT DISTINCT claimed_by FROM billing.emails WHERE status = 'sending'")
        alive = f":{self.system.children['dispatcher']}:"
        dead = [row["claimed_by"] for row in claims if alive not in row["claimed_by"]]
        await fetch(self.system, _HASTEN_MAILS, dead, CLAIM)
        await fetch(self.system, _HASTEN_RETRIES)

    def _lag(self) -> dict[int, int]:
        """By partition; _UNKNOWN while no broker answers."""
        ends, done = log.ends(self.system.kafka.bootstrap, self._topic), self._committed()
        if ends is None or done is None:
            return _UNKNOWN
        return {partition: end - done[partition] for partition, end in ends.items()}

    def _committed(self) -> dict[int, int] | None:
        return log.committed(self.system.kafka.bootstrap, self._topic, group_of("billing", frozenset()))

    @property
    def _topic(self) -> str:
        return "billing.events"


_UNKNOWN: dict[int, int] = {-1: 1}
"""The lag while no broker answers: not none."""
_OPEN = """
SELECT (SELECT count(*) FROM billing.emails WHERE status IN ('queued', 'sending')) AS mails,
       (SELECT count(*) FROM billing.timers WHERE status = 'pending' AND due_at <= now()) AS timers,
       (SELECT count(*) FROM billing.events WHERE outcome = 'waiting') AS waiting
"""
_HASTEN_RETRIES = """
UPDATE billing.timers SET due_at = now() WHERE kind = 'retry' AND status = 'pending' AND due_at > now()
"""
_HASTEN_MAILS = """
UPDATE billing.emails SET next_attempt_at = now()
WHERE next_attempt_at > now() AND (status = 'queued' OR (status = 'sending' AND claimed_by = ANY($1))
      OR (status = 'sending' AND next_attempt_at < now() + $2::interval - interval '1 minute'))
RETURNING email_key
"""


def _is_ours(name: str) -> bool:
    return name.startswith("worker-") or name in ("gateway", "dispatcher", "scheduler")


def _otherwise_than_in_order(lives: list[list[Json]], fold: Fold, tables: Tables) -> list[str]:
    """Rows (but timers, which may be moved by whatever comes late) that would differ had nothing come out of order."""
    ordered = Fold(fold.config, fold.rules)
    for life in lives:
        for number, event in enumerate(life):
            ordered.take(Record("in order", 0, number, None, orjson.dumps(event), (), {}, 0.0))
    return differing_rows(ordered, {kind: rows for kind, rows in tables.state.items() if kind is not Timer})


async def _until(condition: Callable[[], object | Awaitable[object]], within_s: float) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            holds = condition()
            if await holds if isinstance(holds, Awaitable) else holds:
                return
            await asyncio.sleep(0.2)


def main(argv: list[str]) -> int:
    """Entry point: 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="tests.chaos.soak", description="Load, faults, and a check of every row.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--faults", type=int, default=2 * len(Kind))
    parser.add_argument("--only", type=kinds_named, default=list(Kind), help="words of the faults' names, with commas")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=70.0, help="deliveries a second")
    asked = parser.parse_args(argv)
    plan = Plan(
        seed=asked.seed,
        events=asked.events,
        customers=asked.customers,
        faults=asked.faults,
        kinds=asked.only,
        workers=asked.workers,
        rate=asked.rate,
    )
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {line}", flush=True)  # noqa: T201 - the command's output

    say(f"seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="billing-soak-"))
    say(f"state, logs and mail are in {folder}, which stays if anything is found")
    # Not on uvloop, whose transports are no asyncio.Transport: the faulty mailbox would not break them off.
    report = asyncio.run(run(plan, folder, say))
    print(report.text())  # noqa: T201 - the command's output
    if not report.is_clean:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
