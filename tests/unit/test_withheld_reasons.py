"""The judge of a chaos run knows each reason for which a check withholds a mail."""

from __future__ import annotations

import ast

from tests.chaos.withheld import SHOWN_BY
from tests.paths import ROOT


def test_each_reason_of_the_checks_has_its_question() -> None:
    """Otherwise a run reports a mail that was withheld with reason as lost."""
    tree = ast.parse((ROOT / "sinks" / "email" / "checks.py").read_text())
    reasons = {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Withheld"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    assert len(reasons) > 20
    assert reasons <= SHOWN_BY.keys()
