"""Run `billing` commands and processes, forked from one process that has imported all commands.

A fresh interpreter spends one to two seconds of CPU on imports. The forked process differs from it in nothing else: it
has its own environment, folder, output, signals and exit code. What is imported, and how fast a command starts, is
tested with fresh interpreters (tests/unit/ops/test_cli.py); so are command lines and the processes of `billing up`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from ops.cli import COMMANDS
from tests.paths import ROOT

_CLI = "ops.cli"
_PRELOADED = [
    *sorted({entry.place.partition(":")[0] for entry in COMMANDS.values()}),
    "tests.kits.notes",
    "tests.kits.timerkit",
]


def _forking() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_PRELOADED])
    return context


_CONTEXT = _forking()


class ForkedProcess:
    """A forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, -N after signal N, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def start(
    words: Sequence[str], env: Mapping[str, str], stdout: Path, stderr: Path, *, module: str = _CLI, cwd: Path = ROOT
) -> ForkedProcess:
    """Start `billing …`, or another module as `python -m` would. Its outputs are appended to the files.

    `env` is added to this process's environment without its BILLING_ variables. The caller ends the process.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    name = "billing" if module == _CLI else module
    process = _CONTEXT.Process(
        target=_run, args=(module, list(words), clean | dict(env), cwd, stdout, stderr), name=" ".join([name, *words])
    )
    for file in (stdout, stderr):
        file.touch(0o600)  # for a reader that is faster than the process
    process.start()
    return ForkedProcess(process)


@contextmanager
def running(
    words: Sequence[str], env: Mapping[str, str], log: Path, *, module: str = _CLI, cwd: Path = ROOT
) -> Iterator[ForkedProcess]:
    """A process that writes to `log`. After the block it is terminated, and killed if it has not ended in 30 s."""
    process = start(words, env, log, log, module=module, cwd=cwd)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def billing(
    words: Sequence[str], env: Mapping[str, str], *, cwd: Path = ROOT, timeout: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run one command; return its exit code and outputs.

    `env` is added to this process's environment without its BILLING_ variables. Raises TimeoutError after `timeout`
    seconds; the process is then dead.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(words, env, out, err, cwd=cwd)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
            raise TimeoutError(f"billing {' '.join(words)}: no end within {timeout:.0f} s") from None
        return subprocess.CompletedProcess(["billing", *words], code, out.read_text(), err.read_text())


def _run(module: str, words: list[str], env: dict[str, str], cwd: Path, stdout: Path, stderr: Path) -> None:
    """The forked process: become the command."""
    for number, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["billing" if module == _CLI else module, *words]
    try:
        if module == _CLI:
            from ops import cli  # the parent has imported it

            cli.main()
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # an interpreter that ends does so; a forked one ends without
