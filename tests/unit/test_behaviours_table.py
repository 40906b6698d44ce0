"""docs/behaviours.md: every behaviour names tests or is planned, and every test it names exists.

The ids are read from the headings of that page (`### A1 Signature`). They run from 1 without a gap within a letter, so
that a removed entry is noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGE = ROOT / "docs" / "behaviours.md"

_ENTRY = re.compile(r"^### ([A-F])(\d+) (.+)$", re.MULTILINE)
_TEST = re.compile(r"^- `([^`]+)`$", re.MULTILINE)
_FUNCTION = re.compile(r"^(?:async )?def (\w+)\(", re.MULTILINE)
_PLANNED = "(planned)"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One entry: its id, whether the whole of it is planned, and its tests as pytest names them (file::function)."""

    letter: str
    number: int
    is_planned: bool
    tests: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.letter}{self.number}"


def behaviours(page: str) -> list[Behaviour]:
    """The entries in the page's order."""
    headings = list(_ENTRY.finditer(page))
    ends = [*(heading.start() for heading in headings[1:]), len(page)]
    return [
        Behaviour(
            letter=heading[1],
            number=int(heading[2]),
            is_planned=heading[3].endswith(_PLANNED),
            tests=tuple(_TEST.findall(page[heading.end() : end])),
        )
        for heading, end in zip(headings, ends, strict=True)
    ]


ENTRIES = behaviours(PAGE.read_text())
IDS = [entry.id for entry in ENTRIES]


def exists(test: str) -> bool:
    """Whether pytest collects the test: a function `test_…` of a module `test_*.py` below tests/."""
    path, _, name = test.partition("::")
    file = ROOT / path
    if not re.fullmatch(r"tests/.*test_\w+\.py", path) or not name.startswith("test_") or not file.is_file():
        return False
    return name in functions_of(file)


@cache
def functions_of(file: Path) -> frozenset[str]:
    """The functions at the top of a module: a definition there starts its line."""
    return frozenset(_FUNCTION.findall(file.read_text()))


def _misplaced(entries: list[Behaviour]) -> list[str]:
    """Ids that do not follow the one before: a letter out of order, a gap or a second entry."""
    wrong = [
        entry.id
        for _, group in groupby(entries, key=lambda entry: entry.letter)
        for expected, entry in enumerate(group, start=1)
        if entry.number != expected
    ]
    letters = [letter for letter, _ in groupby(entry.letter for entry in entries)]
    return wrong if letters == list("ABCDEF") else [*wrong, f"letters: {''.join(letters)}"]


def test_ids_run_without_a_gap() -> None:
    assert _misplaced(ENTRIES) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_each_behaviour_names_tests_that_exist_or_is_planned(entry: Behaviour) -> None:
    assert entry.tests or entry.is_planned
    assert not (entry.tests and entry.is_planned), f"{entry.id} has tests: only its missing parts are planned"
    assert [test for test in entry.tests if not exists(test)] == []


def test_a_missing_test_or_entry_is_found() -> None:
    assert exists("tests/unit/test_behaviours_table.py::test_a_missing_test_or_entry_is_found")
    assert not exists("tests/unit/test_behaviours_table.py::test_that_is_not_here")
    assert not exists("tests/unit/test_not_here.py::test_a_missing_test_or_entry_is_found")
    text = "### A1 One\n\n- `a.py::b`\n\n### A3 Three (planned)\n"
    assert behaviours(text) == [Behaviour("A", 1, False, ("a.py::b",)), Behaviour("A", 3, True, ())]
    assert _misplaced(behaviours(text)) == ["A3", "letters: A"]
    assert _misplaced([entry for entry in ENTRIES if entry.id != "C3"])[0] == "C4"


def test_tests_named_after_a_behaviour_name_a_real_one() -> None:
    names = [name for file in sorted((ROOT / "tests").rglob("test_*.py")) for name in functions_of(file)]
    named = {found for name in names for found in re.findall(r"(?<=_)[A-F]\d+(?=_)", name)}
    assert named <= set(IDS)
    assert {entry.id for entry in ENTRIES if entry.letter in "BC" and entry.tests} <= named
