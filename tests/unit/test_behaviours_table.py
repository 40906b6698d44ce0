"""docs/behaviours.md: every behaviour names tests, and every test it names exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.paths import ROOT

TABLE = ROOT / "docs" / "behaviours.md"

_LAST = {"A": 7, "B": 6, "C": 13, "D": 10, "E": 3}
IDS = [f"{letter}{number}" for letter, last in _LAST.items() for number in range(1, last + 1)]

_ROW = re.compile(r"\| ([A-E]\d+) \| [^|]+ \| ([^|]*) \|")
_NAMED = re.compile(r"`([^`]+)`")


def _table(text: str) -> dict[str, list[str]]:
    """The tests that each row names, as pytest names them: file::function."""
    rows = [match for line in text.splitlines() if (match := _ROW.fullmatch(line))]
    table = {row[1]: _NAMED.findall(row[2]) for row in rows}
    assert len(table) == len(rows), "an id has two rows"
    return table


def _exists(test: str) -> bool:
    """Whether pytest collects it: a function `test_…` of a module `test_*.py` below tests/."""
    path, _, name = test.partition("::")
    file = ROOT / path
    if not re.fullmatch(r"tests/.*test_\w+\.py", path) or not name.startswith("test_") or not file.is_file():
        return False
    functions = ast.FunctionDef, ast.AsyncFunctionDef
    return any(isinstance(node, functions) and node.name == name for node in ast.parse(file.read_text()).body)


def test_the_table_has_each_behaviour_in_its_order() -> None:
    assert list(_table(TABLE.read_text())) == IDS


@pytest.mark.parametrize("id_", IDS)
def test_each_behaviour_names_tests_that_exist(id_: str) -> None:
    named = _table(TABLE.read_text())[id_]
    assert named
    assert [test for test in named if not _exists(test)] == []


def test_what_does_not_exist_is_found() -> None:
    assert _exists("tests/unit/test_behaviours_table.py::test_what_does_not_exist_is_found")
    assert not _exists("tests/unit/test_behaviours_table.py::test_of_nothing")
    assert not _exists("tests/unit/test_of_nothing.py::test_what_does_not_exist_is_found")
    assert _table("| C1 | paid |  |") == {"C1": []}


def test_tests_named_after_a_behaviour_name_a_real_one() -> None:
    names = [
        node.name
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    named = {found for name in names for found in re.findall(r"(?<=_)[A-E]\d+(?=_)", name)}
    assert named <= set(IDS)
    assert {id_ for id_ in IDS if id_[0] in "BC"} <= named
