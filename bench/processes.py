"""Starts and stops the measured processes, and reads their CPU time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from schemas.errors import BillingError

ROOT = Path(__file__).parent.parent
_END_WITHIN_S = 20.0


class RunFailed(BillingError):
    """A measured process ended early or took too long; the message ends with its last lines."""


def billing(*arguments: str) -> list[str]:
    """Return the command line of a `billing` command."""
    return [sys.executable, "-m", "ops.cli", *arguments]


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; stop it with SIGTERM, or SIGKILL after 20 s, when the block is left."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measured(module: str, arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """Run `python -m MODULE` to its end and return the JSON figures in its last line of output. Raises RunFailed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{module} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise RunFailed(f"{module} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def answers(url: str) -> bool:
    """Whether the URL answers 200 now."""
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, including children that have ended."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it has ended, so its parent's figures include it
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return float(total)


def resident_mb(pid: int) -> float:
    """Return the resident memory of this one process, without its children: shared pages would count twice."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20
