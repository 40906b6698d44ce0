"""The command line: its table of commands, what it imports, its version, and who may write to a terminal."""

from __future__ import annotations

import ast
import inspect
import resource
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from ops.cli import COMMANDS, CommandEntry
from ops.runtime import version as version_module
from tests.paths import ROOT

HELP_WITHIN_S = 3.0
"""Generous for a loaded machine; `billing bench` measures it."""
LOOKUP_WITHIN_S = 6.0

_WRITES = {"echo", "secho", "print", "write", "writelines"}


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_first_sentence_of_each_command(name: str) -> None:
    entry: CommandEntry = COMMANDS[name]
    module, _, attribute = entry.place.partition(":")
    command = getattr(import_module(module), attribute)
    if isinstance(command, typer.Typer):
        callback = command.registered_callback
        text = command.info.help if isinstance(command.info.help, str) else None
        text = text or inspect.getdoc(callback.callback if callback else None)
    else:
        text = inspect.getdoc(command)
    assert text is not None
    first = " ".join(text.split("\n\n")[0].split())
    assert (first + " ").startswith(entry.help + " "), first
    assert entry.help.endswith(".")


def test_help_imports_no_command_and_no_driver() -> None:
    loaded = _python(
        "import sys; sys.argv = ['billing', '--help']\n"
        "import atexit; atexit.register(lambda: sys.stderr.flush())\n"
        "from ops.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print('LOADED', *sorted(sys.modules))\n"
    ).partition("LOADED")[2]
    names = set(loaded.split())
    assert not {name for name in names if name.startswith("ops.commands")}
    assert names.isdisjoint({"sqlalchemy", "asyncpg", "pydantic", "confluent_kafka", "aiohttp", "faust", "stripe"})


def test_a_lookup_imports_only_what_it_needs() -> None:
    names = set(_python("import sys, ops.commands.event; print(*sys.modules)").split())
    assert names.isdisjoint({"confluent_kafka", "aiohttp", "faust", "stripe", "alembic", "prometheus_client"})


@pytest.mark.parametrize(("words", "within_s"), [(["--help"], HELP_WITHIN_S), (["event", "--help"], LOOKUP_WITHIN_S)])
def test_it_answers_soon(words: list[str], within_s: float) -> None:
    """In seconds of CPU, the best of up to three: the bound is about imports, not about a busy machine."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "ops.cli", *words], cwd=ROOT, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        if taken[-1] < within_s:
            break
    assert min(taken) < within_s


def test_the_version_comes_from_the_package(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "BILLING_CODE_VERSION": "v9-abc"}
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "--version"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"billing-stream {version('billing-stream')} (v9-abc)\n")


def test_the_version_names_the_build_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BILLING_CODE_VERSION", raising=False)
    monkeypatch.setattr(version_module, "_BUILD", tmp_path / "BUILD")
    (tmp_path / "BUILD").write_text("v0.1.0-3-gabc1234\n")
    assert version_module.version_line().endswith(" (v0.1.0-3-gabc1234)")


def test_only_the_terminal_module_writes() -> None:
    """Every other output would let control characters of stored texts through."""
    found = []
    for path in sorted((ROOT / "ops" / "commands").glob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                if any(name.split(".")[0] == "rich" for name in [module, *names]):
                    found.append(f"{path.name}:{node.lineno} imports rich")
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                owner = ast.unparse(node.func)
                if called in _WRITES and owner.split(".")[0] in ("typer", "sys", "print", "click"):
                    found.append(f"{path.name}:{node.lineno} calls {owner}")
    assert found == []


def test_an_argument_that_is_not_text_is_refused_in_one_line() -> None:
    """A file name or a pasted id in another encoding; Kafka, Postgres and digests take UTF-8 only."""
    command: list[str | bytes] = [sys.executable, "-m", "ops.cli", "customer", b"cus_\xff"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "billing: an argument is not UTF-8\n")
