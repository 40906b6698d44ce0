"""What was measured: figures by name, of each round, and the table and JSON made of them."""

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
    """One figure as a share of another; `goal` is the least that is wanted."""

    figure: str
    of: str
    goal: float | None = None
    name: str = ""


@dataclass(slots=True)
class Figures:
    """Values by figure; a figure is what one row of a table shows."""

    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    units: dict[str, str] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)

    def add(self, figure: str, value: float, unit: str) -> None:
        self.rounds[figure].append(value)
        self.units[figure] = unit

    def median(self, figure: str) -> float:
        return median(self.rounds[figure])

    def ratio(self, ratio: Ratio) -> float | None:
        """The median of the rounds' own ratios where both have as many: their noise is common to both."""
        ones, others = self.rounds.get(ratio.figure), self.rounds.get(ratio.of)
        if not ones or not others:
            return None
        if len(ones) == len(others):
            return median(one / other for one, other in zip(ones, others, strict=True))
        return median(ones) / median(others)

    def table(self) -> str:
        """Markdown: every figure with its median and rounds, then every ratio with its goal."""
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
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """The same for machines."""
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
        }


def machine() -> Mapping[str, str | int]:
    """What figures depend on."""
    return {
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    """p50, p95 and p99 of at least two values."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
