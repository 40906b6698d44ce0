"""Writes rows as CSV that spreadsheets can open without running anything."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

_FORMULA = frozenset("=+-@")
_ENDS_CELL = re.compile(r"([;\t\r\n])")
"""Ends of a cell for a program that does not take the comma for one, as where the comma is the decimal sign."""


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows with a header line, '' without rows. A text that would be read as a formula is quoted."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: csv_cell(value) for key, value in row.items()})
    return out.getvalue()


def csv_cell(value: Any) -> Any:
    """Returns the value for csv's writers, without a formula: times as ISO 8601, a list's items by blanks, JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        value = " ".join(map(str, value))
    elif isinstance(value, dict):
        value = orjson.dumps(value).decode()
    return _text_cell(value) if isinstance(value, str) else value


def _text_cell(text: str) -> str:
    """Returns the text as a cell that no spreadsheet runs as a formula, nor the rest after what may end a cell."""
    whole = f"'{text}" if is_formula(text) else text
    parts = _ENDS_CELL.split(whole)
    parts[2::2] = [f"'{part}" if is_formula(part) else part for part in parts[2::2]]
    return "".join(parts)


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run the text: its first visible character begins a formula, also in full width."""
    if text.startswith(("\t", "\r")):
        return True
    first = next((one for one in unicodedata.normalize("NFKC", text) if not _is_skipped(one)), "")
    return first in _FORMULA


def _is_skipped(one: str) -> bool:
    """Whether it is a blank, a quote, or has no width (Unicode's control and format characters).

    A quote is doubled in the file. At the start of a cell, a program with another separator takes the two for an empty
    quoted text, and runs what follows.
    """
    return one == '"' or one.isspace() or unicodedata.category(one) in ("Cc", "Cf")
