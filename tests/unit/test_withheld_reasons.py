"""The judge of a chaos run knows each reason for which a check withholds a mail."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from sinks.email import checks
from tests.chaos.withheld import SHOWN_BY
from tests.paths import ROOT


def test_each_reason_of_the_checks_has_its_question() -> None:
    """Otherwise a run reports a mail that was withheld with reason as lost."""
    tree = ast.parse((ROOT / "sinks" / "email" / "checks.py").read_text())
    reasons = {text for node in ast.walk(tree) for text in _reasons(node)}
    assert len(reasons) > 25
    assert reasons <= SHOWN_BY.keys()


def _reasons(node: ast.AST) -> Iterator[str]:
    """Yields the texts of `Withheld(…)`, and of what functions return that say why or None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Withheld":
        yield from _texts(node.args)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.returns is None:
        return
    if ast.unparse(node.returns) == "str | None":
        yield from _texts([one for one in ast.walk(node) if isinstance(one, ast.Return)])


def _texts(nodes: list[ast.expr] | list[ast.Return]) -> Iterator[str]:
    for node in nodes:
        parts = {id(part) for one in ast.walk(node) if isinstance(one, ast.JoinedStr) for part in one.values}
        for one in ast.walk(node):
            if id(one) in parts:
                continue
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and " " in one.value:
                yield one.value
            elif isinstance(one, ast.Name) and one.id.endswith("_REASON"):
                yield getattr(checks, one.id)
