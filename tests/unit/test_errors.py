"""Every error that the product defines is a BillingError, so that callers can tell it from a programming error."""

from __future__ import annotations

import ast
import builtins

from tests.paths import ROOT
from tests.unit.test_file_length import python_files

TESTS = ("tests", "docs")
BUILT_IN = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)}


def outside_the_tree(source: str) -> list[str]:
    """The classes whose bases are built-in exceptions only."""
    if "class " not in source:
        return []
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    bases = {node.name: [base.id for base in node.bases if isinstance(base, ast.Name)] for node in classes}
    return [name for name, names in bases.items() if names and set(names) <= BUILT_IN and name != "BillingError"]


def test_every_error_is_in_the_tree() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in python_files(ROOT)
        if path.relative_to(ROOT).parts[0] not in TESTS and (names := outside_the_tree(path.read_text()))
    }
    assert found == {}


def test_an_error_outside_the_tree_is_found() -> None:
    source = "class Lost(Exception): ...\nclass Odd(BillingError, ValueError): ...\nclass Deep(Lost): ...\n"
    assert outside_the_tree(source) == ["Lost"]
