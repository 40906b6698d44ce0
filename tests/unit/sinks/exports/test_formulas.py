"""The CSV files of exports and figures run no formula in a spreadsheet (trust T43)."""

from __future__ import annotations

import csv
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


ENDS = (";", "\t", "\n", "\r\n", "; ", ";\u200b", ';"', '; "', ';" "', 'x\n"', ',;"', '";"')
"""What ends a cell for programs with another separator, also with a quote, which the file doubles."""


def cells_of(value: object, separator: str) -> list[str]:
    """Returns the cells of a file with this value, as a program with that separator reads them."""
    text = csv_text([{"id": "x", "value": value, "more": "y"}, {"id": "x", "value": value, "more": value}])
    return [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("end", "start"), list(itertools.product(ENDS, STARTS)))
def test_no_part_of_a_text_is_a_formula_for_a_program_with_another_separator(
    end: str, start: str, separator: str
) -> None:
    text = f"Ada{end}{start}1+1{end}Bob"
    for value in (text, {"name": text}, [text]):
        assert not any(is_formula(cell.strip()) for cell in cells_of(value, separator)), cells_of(value, separator)


@given(st.text(st.sampled_from("a=;,\t\r\n\"' \u200b"), max_size=12), st.sampled_from(",;\t"))
def test_no_text_gives_a_program_a_cell_with_a_formula(text: str, separator: str) -> None:
    assert not any(is_formula(cell.strip()) for cell in cells_of(text, separator))


@pytest.mark.parametrize("text", ["", "Ada", " Ada", "a=b", "1-2", "'=1", "\u3000Ada", "jane@example.com", '"Ada"'])
def test_other_texts_stay(text: str) -> None:
    assert not is_formula(text)
