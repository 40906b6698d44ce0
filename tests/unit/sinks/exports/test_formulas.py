"""The CSV files of exports and figures run no formula in a spreadsheet (trust T43)."""

from __future__ import annotations

import csv
import io
import itertools
import re

import pytest

from schemas.csv_text import csv_text, is_formula

STARTS = "=+-@" + "\uff1d\uff0b\uff0d\uff20"
"""ASCII and full width."""
LEADS = (
    "",
    " ",
    "  ",
    "\n",
    "\r",
    "\t",
    "\r\n ",
    "\u3000",
    "\u00a0",
    "\u200b",
    "\ufeff",
    " \u200b\n",
    "\u00a0\u200b\u00a0\u200b",
    "\u2066\u00ad",
)


@pytest.mark.parametrize(("lead", "start"), list(itertools.product(LEADS, STARTS)))
def test_the_first_visible_character_decides(lead: str, start: str) -> None:
    text = f"{lead}{start}cmd|' /C calc'!A0"
    assert is_formula(text)
    (row,) = csv.DictReader(io.StringIO(csv_text([{"name": text}]), newline=""))
    assert row["name"].startswith("'")
    assert row["name"].replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(("end", "start"), list(itertools.product((";", "\t", "\n", "\r\n", "; ", ";\u200b"), STARTS)))
def test_no_part_of_a_text_is_a_formula_for_a_program_with_another_separator(end: str, start: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"name": f"Ada{end}{start}1+1{end}Bob"}]), newline=""))
    cells = re.split(r"[;\t\r\n]", row["name"])
    assert cells[0] == "Ada"
    assert not any(is_formula(cell) for cell in cells)


@pytest.mark.parametrize("text", ["", "Ada", " Ada", "a=b", "1-2", "'=1", "\u3000Ada", "jane@example.com"])
def test_other_texts_stay(text: str) -> None:
    assert not is_formula(text)
