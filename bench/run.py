"""The whole measurement, in one run on one machine: parts in turn, what is compared side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.drain import backlogs, worker_drain
from bench.figures import Figures
from bench.gateway import gateway
from bench.memory import memory
from bench.place import Place
from bench.recovery import recovery
from bench.whole import whole


class Part(StrEnum):
    GATEWAY = "gateway"
    WORKER = "worker"
    WHOLE = "whole"
    COST = "cost"
    MEMORY = "memory"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Size:
    """How much each part takes on."""

    requests: int = 6_000
    drained: int = 200_000
    posted: int = 40_000
    backlogs: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    known: tuple[int, ...] = (0, 1_000_000, 5_000_000)
    behind: int = 200_000

    def shrunk(self, by: int) -> Size:
        """For a look at whether it runs; its figures mean little."""
        return Size(
            self.requests // by,
            self.drained // by,
            self.posted // by,
            tuple(count // by for count in self.backlogs),
            tuple(count // by for count in self.known),
            self.behind // by,
        )


Say = Callable[[str], None]


async def measure(place: Place, parts: list[Part], rounds: int, size: Size, say: Say) -> Figures:
    """Runs the parts in the order of their enumeration. Raises RunFailed, NotAccepted."""
    figures = Figures()
    todo: dict[Part, Callable[[], Awaitable[None]]] = {
        Part.GATEWAY: lambda: gateway(place, figures, rounds, size.requests),
        Part.WORKER: lambda: worker_drain(place, figures, rounds, size.drained),
        Part.WHOLE: lambda: whole(place, figures, rounds, size.posted),
        Part.COST: lambda: backlogs(place, figures, list(size.backlogs)),
        Part.MEMORY: lambda: memory(place, figures, list(size.known)),
        Part.RECOVERY: lambda: recovery(place, figures, rounds, size.behind),
    }
    for part, run in todo.items():
        if part in parts:
            say(f"measuring: {part}")
            await run()
    return figures
