"""The measured figures of each round, and the table and JSON document made from them."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure divided by another; `goal` is the lowest acceptable value."""

    figure: str
    of: str
    goal: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure, or its ratio to the figure `of`, has to be: `at_least` or `at_most` a value."""

    name: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    of: str | None = None

    @property
    def wanted(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def is_reached(self, value: float) -> bool:
        is_enough = self.at_least is None or value >= self.at_least
        return is_enough and (self.at_most is None or value <= self.at_most)


@dataclass(slots=True)
class Figures:
    """The values of each figure, one per round. Each figure is one row of the table."""

    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    units: dict[str, str] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    goals: tuple[Goal, ...] = ()

    def add(self, figure: str, value: float, unit: str) -> None:
        self.rounds[figure].append(value)
        self.units[figure] = unit

    def median(self, figure: str) -> float:
        return median(self.rounds[figure])

    def ratio(self, ratio: Ratio) -> float | None:
        """Return the ratio, None if a figure is missing.

        If both figures have the same number of rounds, this is the median of the ratios per round, because noise
        affects both figures of a round alike. Otherwise it is the ratio of the medians.
        """
        ones, others = self.rounds.get(ratio.figure), self.rounds.get(ratio.of)
        if not ones or not others:
            return None
        if len(ones) == len(others):
            return median(one / other for one, other in zip(ones, others, strict=True))
        return median(ones) / median(others)

    def value(self, goal: Goal) -> float | None:
        """Return what the goal is compared with, None if a figure is missing."""
        if goal.figure not in self.rounds:
            return None
        return self.median(goal.figure) if goal.of is None else self.ratio(Ratio(goal.figure, goal.of))

    def table(self) -> str:
        """Return Markdown: every figure with its median and rounds, then every ratio with its goal."""
        lines = ["| figure | median | unit | rounds |", "|---|---:|---|---|"]
        for figure, rounds in self.rounds.items():
            shown = ", ".join(map(_short, rounds)) if len(rounds) > 1 else ""
            lines.append(f"| {figure} | {_short(median(rounds))} | {self.units[figure]} | {shown} |")
        lines += ["", "| ratio | is | goal |", "|---|---:|---:|"]
        for ratio in self.ratios:
            value = self.ratio(ratio)
            if value is not None:
                goal = "" if ratio.goal is None else f"≥ {ratio.goal:g}"
                lines.append(f"| {ratio.name or f'{ratio.figure} / {ratio.of}'} | {value:.2f} | {goal} |")
        if self.goals:
            lines += ["", "| goal | is | wanted | reached |", "|---|---:|---:|---|"]
        for wanted in self.goals:
            value = self.value(wanted)
            shown = "not measured" if value is None else _short(value)
            reached = "" if value is None else "yes" if wanted.is_reached(value) else "no"
            lines.append(f"| {wanted.name} | {shown} | {wanted.wanted} | {reached} |")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Return the same as a JSON document."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "figures": {
                name: {"median": median(rounds), "unit": self.units[name], "rounds": rounds}
                for name, rounds in self.rounds.items()
            },
            "ratios": [
                {"name": ratio.name or f"{ratio.figure} / {ratio.of}", "is": value, "goal": ratio.goal}
                for ratio in self.ratios
                if (value := self.ratio(ratio)) is not None
            ],
            "goals": [
                {
                    "name": goal.name,
                    "is": (value := self.value(goal)),
                    "at_least": goal.at_least,
                    "at_most": goal.at_most,
                    "reached": None if value is None else goal.is_reached(value),
                }
                for goal in self.goals
            ],
        }


def machine() -> Mapping[str, str | int]:
    """Return the properties of this machine that the figures depend on."""
    return {
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Return p50, p95 and p99 of at least two values."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
