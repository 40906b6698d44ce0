"""Every command is known to act, to read, or to run the system; each that acts writes an entry of the audit log."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module

import typer

from ops.cli import COMMANDS
from ops.commands.acting import ACTING, READING, RUNNING, entry_for
from tests.paths import ROOT


def _names() -> Iterator[str]:
    """Each command as it is called, without `billing`."""
    for name, entry in COMMANDS.items():
        module, _, attribute = entry.place.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            yield name
            continue
        if command.registered_callback is not None or command.info.invoke_without_command is True:
            yield name
        for sub in command.registered_commands:
            assert sub.callback is not None
            yield f"{name} {sub.name or sub.callback.__name__}"


def test_each_command_is_in_one_group() -> None:
    groups = [set(ACTING), set(READING), set(RUNNING)]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a command is in two groups"
    assert set().union(*groups) == set(_names())


def test_each_command_that_acts_writes_its_entry() -> None:
    """`replay_matching` and `OutboxCommand.change` serve several commands, so they pass the name on."""
    passed: set[str] = set()
    for path in (ROOT / "ops" / "commands").glob("*.py"):
        tree = ast.parse(path.read_text())
        named = {
            str(node.value.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and any(isinstance(target, ast.Name) and target.id == "command" for target in node.targets)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                first = node.args[0] if node.args else None
                if node.func.id in ("entry_for", "replay_matching"):
                    passed |= {str(first.value)} if isinstance(first, ast.Constant) else named
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "change":
                passed |= {str(first.value) for first in node.args[:1] if isinstance(first, ast.Constant)}
    assert set(ACTING) <= passed


def test_an_entry_names_who_and_what() -> None:
    entry = entry_for("mail requeue", "jane", filter={"keys": ["m_1"]})
    assert (entry.who, entry.action, entry.role, entry.filter) == ("jane", "mail.requeue", "cli", {"keys": ["m_1"]})
    assert entry_for("adopt").who
