"""Run `billing` commands as processes that are forked from one that has imported all commands.

A fresh interpreter spends more than a second of CPU on imports for each command. The forked process differs from it in
nothing else: it has its own environment, folder, output and exit code. What is imported, and how fast a command starts,
is tested with fresh interpreters (tests/unit/ops/test_cli.py).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from ops.cli import COMMANDS
from tests.paths import ROOT

_PRELOADED = sorted({entry.place.partition(":")[0] for entry in COMMANDS.values()})


def _forking() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_PRELOADED])
    return context


_CONTEXT = _forking()


def billing(
    words: Sequence[str], env: Mapping[str, str], *, cwd: Path = ROOT, timeout: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run one command; return its exit code and outputs.

    `env` is added to this process's environment without its BILLING_ variables. Raises TimeoutError after `timeout`
    seconds; the process is then dead.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        process = _CONTEXT.Process(target=_run, args=(list(words), clean | dict(env), cwd, *files))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join(10)
            raise TimeoutError(f"billing {' '.join(words)}: no end within {timeout:.0f} s")
        out, err = (file.read_text() for file in files)
    return subprocess.CompletedProcess(["billing", *words], process.exitcode, out, err)


def _run(words: list[str], env: dict[str, str], cwd: Path, stdout: Path, stderr: Path) -> None:
    """The forked process: become the command."""
    for number, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["billing", *words]
    from ops import cli  # the parent has imported it

    cli.main()
