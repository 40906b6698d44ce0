"""Runs the benchmark: the parts one after the other, with figures that are compared measured in the same round."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.commands import commands
from bench.console import console, price
from bench.drain import backlogs, worker_drain
from bench.figures import Figures
from bench.gateway import gateway
from bench.goals import GOALS
from bench.mails import mails
from bench.memory import memory
from bench.place import BenchServers
from bench.recovery import recovery
from bench.rivals import rivals
from bench.whole import whole
from bench.years import years


class BenchPart(StrEnum):
    COMMANDS = "commands"
    GATEWAY = "gateway"
    WORKER = "worker"
    WHOLE = "whole"
    MAILS = "mails"
    COST = "cost"
    MEMORY = "memory"
    RECOVERY = "recovery"
    RIVALS = "rivals"
    GOALS = "goals"
    """All parts that have a goal, and the table of the goals."""
    YEARS = "years"
    CONSOLE = "console"
    """The console's pages on a database of years. Part years measures them, too."""
    PRICE = "price"
    """What the console's data costs the worker."""


BY_DEFAULT = tuple(
    part for part in BenchPart if part not in (BenchPart.GOALS, BenchPart.YEARS, BenchPart.CONSOLE, BenchPart.PRICE)
)
OF_GOALS = frozenset(
    {
        BenchPart.GATEWAY,
        BenchPart.WORKER,
        BenchPart.WHOLE,
        BenchPart.MAILS,
        BenchPart.RECOVERY,
        BenchPart.RIVALS,
        BenchPart.YEARS,
    }
)


@dataclass(frozen=True, slots=True)
class Size:
    """The number of events or requests of each part."""

    requests: int = 6_000
    drained: int = 200_000
    posted: int = 40_000
    mails: int = 10_000
    backlogs: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    known: tuple[int, ...] = (0, 1_000_000, 5_000_000)
    recovery_backlog: int = 200_000
    rivals: int = 20_000
    ledger: int = 1_000_000
    """Events in the ledger of the database that has lived for years."""

    def shrunk(self, by: int) -> Size:
        """Return smaller sizes, to see whether the benchmark runs. The figures of such a run mean little."""
        return Size(
            self.requests // by,
            self.drained // by,
            self.posted // by,
            self.mails // by,
            tuple(count // by for count in self.backlogs),
            tuple(count // by for count in self.known),
            max(self.recovery_backlog // by, _LEAST_BACKLOG),
            self.rivals // by,
            self.ledger // by,
        )


_LEAST_BACKLOG = 60_000
"""A shorter backlog of the part recovery ends before the second worker is ready."""
_COMMAND_ROUNDS = 7
"""A command takes a second at most, so its median may cost some more rounds."""
YARDSTICK = "one core, a loop in Python"

Say = Callable[[str], None]


async def measure(place: BenchServers, parts: list[BenchPart], rounds: int, size: Size, say: Say) -> Figures:
    """Run the parts in the order of `BenchPart`. Raises RunFailed, NotAccepted."""
    figures = Figures()
    if BenchPart.GOALS in parts:
        parts, figures.goals = [*parts, *OF_GOALS], GOALS
    todo: dict[BenchPart, Callable[[], Awaitable[None]]] = {
        BenchPart.COMMANDS: lambda: commands(place, figures, max(rounds, _COMMAND_ROUNDS)),
        BenchPart.GATEWAY: lambda: gateway(place, figures, rounds, size.requests),
        BenchPart.WORKER: lambda: worker_drain(place, figures, rounds, size.drained),
        BenchPart.WHOLE: lambda: whole(place, figures, rounds, size.posted),
        BenchPart.MAILS: lambda: mails(place, figures, rounds, size.mails),
        BenchPart.COST: lambda: backlogs(place, figures, list(size.backlogs)),
        BenchPart.MEMORY: lambda: memory(place, figures, list(size.known)),
        BenchPart.RECOVERY: lambda: recovery(place, figures, rounds, size.recovery_backlog),
        BenchPart.RIVALS: lambda: rivals(place, figures, rounds, size.rivals),
        BenchPart.YEARS: lambda: years(place, figures, rounds, size.ledger),
        BenchPart.CONSOLE: lambda: console(place, figures, rounds, size.ledger),
        BenchPart.PRICE: lambda: price(place, figures, rounds, size.rivals),
    }
    for part, run in todo.items():
        if part in parts:
            say(f"measuring: {part}")
            figures.add(YARDSTICK, yardstick(), "M turns/s")
            await run()
    figures.add(YARDSTICK, yardstick(), "M turns/s")
    return figures


def yardstick() -> float:
    """Return the present speed of one core: million turns of a loop per second, the best of five tries of 0.1 s.

    On a shared machine this may halve or double within an hour. Compare the rates of two runs relative to it.
    """
    best = 0.0
    for _ in range(5):
        began, turns = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < 0.1:
            for _ in range(10_000):
                turns += 1
        best = max(best, turns / spent)
    return best / 1e6
