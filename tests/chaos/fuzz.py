"""`python -m tests.chaos.fuzz`: hostile requests and odd signed events for the whole system, while good ones are timed.

requests ─▶ the system of `billing up` ─▶ quiet ─▶ no 5xx, no process ended, memory flat, every accepted event settled
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.odd import good_event, hostile_request, odd_event, signed
from tests.kits.systemkit import RiggedSystem, fetch, running_system
from tests.waiting import TooLate, eventually

_PROCESSES = ("gateway", "worker-1", "dispatcher", "scheduler")
_ANSWER_WITHIN_S = 10.0
_HOSTILE_WITHIN_S = 1.0
"""Some hostile requests are incomplete, and the gateway waits for their rest."""
_SETTLED_WITHIN_S = 900.0
_GOOD_PAUSE_S = 0.1
_SETTLED = "SELECT event_id FROM billing.events WHERE event_id = ANY($1::text[])"
_GROWTH = 1.35
"""How much more memory a process may use at the end than after the first tenth of the requests."""
_SECRET = b"whsec_ofTheDefaultEndpoint0123456789ab"
_NO_BRAKE = {"BILLING_BRAKE_RUN": "1000000000", "BILLING_BRAKE_LEAST": "1000000000", "BILLING_LOG_LEVEL": "warning"}
"""Odd events die in long runs, which is what the brake is for."""


@dataclass
class FuzzFigures:
    """What a run counted. Answers are by status; 0: the connection was closed without one."""

    hostile: Counter[int] = field(default_factory=Counter)
    odd: Counter[int] = field(default_factory=Counter)
    good: Counter[int] = field(default_factory=Counter)
    good_ms: list[float] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    memory: dict[str, list[int]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.hostile.total() + self.odd.total() + self.good.total()

    def server_errors(self) -> int:
        return sum(n for counts in (self.hostile, self.odd, self.good) for status, n in counts.items() if status >= 500)


class Lane:
    """One connection that is opened again whenever the gateway has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, within_s: float = _ANSWER_WITHIN_S) -> int:
        """Send one request. Return the status of its answer, 0 if the connection was closed without one."""
        try:
            async with asyncio.timeout(within_s):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(request)
                await writer.drain()
                return await self._answer(reader)
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
            await self.close()
            return 0

    async def _answer(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        await reader.readexactly(int(length.partition(b":")[2]))
        if b"connection: close" in head or head.startswith(b"http/1.0"):
            await self.close()
        return status

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()


async def run(system: RiggedSystem, requests: int, odd: int, lanes: int, seed: int, say: Callable[[str], None]) -> int:
    """Send everything, wait until it is settled, and report. Return the number of failed checks."""
    port = int(system.gateway_url.rpartition(":")[2])
    figures, chance = FuzzFigures(), random.Random(seed)  # for tests
    before = {name: pid for name, pid in system.children.items() if name in _PROCESSES}
    kinds = ["odd"] * odd + ["hostile"] * (requests - odd)
    chance.shuffle(kinds)
    work = iter(enumerate(kinds))
    started = time.monotonic()
    done = asyncio.Event()
    good = asyncio.create_task(_good(port, figures, done))
    watch = asyncio.create_task(_watch(figures, before, len(kinds), done))
    await asyncio.gather(*(_lane(port, work, figures, random.Random(f"{seed}:{n}")) for n in range(lanes)))
    done.set()
    await asyncio.gather(good, watch)
    took = time.monotonic() - started
    unsettled = await _unsettled(system, figures)
    after = {name: system.children.get(name) for name in before}
    return _report(figures, before, after, unsettled, took, say)


async def _lane(port: int, work: Iterator[tuple[int, str]], figures: FuzzFigures, chance: random.Random) -> None:
    lane = Lane(port)
    for number, kind in work:
        if kind == "odd":
            event_id, body = odd_event(chance, number)
            status = await lane.ask(signed(body, _SECRET))
            figures.odd[status] += 1
            if status == 200:
                figures.accepted.add(event_id)
        else:
            figures.hostile[await lane.ask(hostile_request(chance), _HOSTILE_WITHIN_S)] += 1
    await lane.close()


async def _good(port: int, figures: FuzzFigures, done: asyncio.Event) -> None:
    lane, number = Lane(port), 0
    while not done.is_set():
        number += 1
        event_id, body = good_event(number)
        started = time.perf_counter()
        status = await lane.ask(signed(body, _SECRET))
        figures.good[status] += 1
        figures.good_ms.append((time.perf_counter() - started) * 1000)
        if status == 200:
            figures.accepted.add(event_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _GOOD_PAUSE_S)
    await lane.close()


async def _watch(figures: FuzzFigures, pids: dict[str, int], total: int, done: asyncio.Event) -> None:
    """Note the memory of each process after each tenth of the requests."""
    tenth = 1
    while not done.is_set():
        if figures.requests >= total * tenth / 10:
            tenth += 1
            for name, pid in pids.items():
                with suppress(psutil.NoSuchProcess):
                    figures.memory.setdefault(name, []).append(psutil.Process(pid).memory_info().rss)
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.2)


async def _unsettled(system: RiggedSystem, figures: FuzzFigures) -> int:
    """Wait until each accepted event has a row in the ledger. Return how many have none at the end."""
    missing = set(figures.accepted)

    async def none_is_missing() -> bool:
        missing.difference_update(row["event_id"] for row in await fetch(system, _SETTLED, list(missing)))
        return not missing

    with suppress(TooLate):  # the report names their number
        await eventually(none_is_missing, within_s=_SETTLED_WITHIN_S, every_s=1.0)
    return len(missing)


def _report(
    figures: FuzzFigures,
    before: dict[str, int],
    after: dict[str, int | None],
    unsettled: int,
    took: float,
    say: Callable[[str], None],
) -> int:
    ended = sorted(name for name, pid in before.items() if after[name] != pid)
    grown = sorted(name for name, sizes in figures.memory.items() if sizes[-1] > sizes[0] * _GROWTH)
    times = sorted(figures.good_ms)
    let_in = figures.hostile[200]
    good_failed = figures.good.total() - figures.good[200]
    lines = {
        "requests": f"{figures.requests} in {took:.0f} s ({figures.requests / took:.0f}/s)",
        "hostile requests": _counts(figures.hostile),
        "odd signed events": _counts(figures.odd),
        "good events": f"{_counts(figures.good)}; p50 {_at(times, 0.5):.0f} ms, p99 {_at(times, 0.99):.0f} ms",
        "answers 5xx": figures.server_errors(),
        "hostile answered 200": let_in,
        "good not answered 200": good_failed,
        "processes that ended": ", ".join(ended) or "none",
        "accepted, not settled": f"{unsettled} of {len(figures.accepted)}",
        **{f"memory of {name}": _memory(sizes) for name, sizes in figures.memory.items()},
    }
    for name, value in lines.items():
        say(f"{name:>26}  {value}")
    return figures.server_errors() + let_in + good_failed + len(ended) + unsettled + len(grown)


def _counts(counts: Counter[int]) -> str:
    named = ", ".join(f"{status or 'closed'}: {count}" for status, count in sorted(counts.items()))
    return f"{counts.total()} ({named})"


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _memory(sizes: list[int]) -> str:
    return f"{sizes[0] / 2**20:.0f} MiB after a tenth, {sizes[-1] / 2**20:.0f} MiB at the end"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=300_000, help="all of them, without the good ones")
    parser.add_argument("--odd", type=int, default=50_000, help="of these, signed events with odd values")
    parser.add_argument("--lanes", type=int, default=32, help="connections")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**8))
    given = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - a command's output

    say(f"seed {given.seed}: {given.requests} requests, {given.odd} of them odd signed events, {given.lanes} lanes")
    folder = Path(tempfile.mkdtemp(prefix="billing-fuzz-"))
    try:
        with running_system(folder / "state", settings=_NO_BRAKE) as system:
            failed = asyncio.run(run(system, given.requests, given.odd, given.lanes, given.seed, say))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say("every check holds" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
