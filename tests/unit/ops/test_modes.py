"""Every process that acts on the database refuses one of the other mode."""

from __future__ import annotations

import ast

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("name", ["worker", "dispatcher", "scheduler", "console"])
def test_each_process_checks_the_mode_when_it_begins(name: str) -> None:
    tree = ast.parse((ROOT / "ops" / "processes" / f"{name}.py").read_text())
    begins = [
        {keyword.arg for keyword in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "begin"
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "process"
    ]
    assert begins
    assert all("mode" in given for given in begins)
