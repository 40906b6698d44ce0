"""How fast the command line answers: the help, and the first line of a lookup in Postgres."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Mapping

from bench.figures import Figures
from bench.place import BenchServers
from bench.processes import ROOT, RunFailed, billing

HELP, LOOKUP = "billing --help", "first line of a lookup"
_WITHIN_S = 60.0


async def commands(place: BenchServers, figures: Figures, rounds: int) -> None:
    """Measure each command in turns, so that a slow moment of the machine hits both. Raises RunFailed."""
    environment = (await place.site("commands")).environment()
    for _ in range(rounds):
        for name, words in ((HELP, ["--help"]), (LOOKUP, ["find", "cus_unknown"])):
            figures.add(name, await asyncio.to_thread(first_line_s, words, environment), "s")


def whole_command_s(words: list[str], environment: Mapping[str, str]) -> float:
    """Return the seconds that a command takes from its start to its end. Raises RunFailed."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            billing(*words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"billing {' '.join(words)} did not end within {_WITHIN_S:.0f} s") from None
    if done.returncode not in (0, 1):
        raise RunFailed(f"billing {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def first_line_s(words: list[str], environment: Mapping[str, str]) -> float:
    """Return the seconds until the command has printed its first line, on stdout or stderr. Raises RunFailed."""
    began = time.perf_counter()
    with subprocess.Popen(
        billing(*words), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        line = process.stdout.readline() if process.stdout is not None else ""
        took = time.perf_counter() - began
        rest = process.communicate(timeout=_WITHIN_S)[0]
    if not line or process.returncode not in (0, 1):
        raise RunFailed(f"billing {' '.join(words)} ended with {process.returncode}:\n{line}{rest[-2000:]}")
    return took
