"""Writes rows as CSV that spreadsheets can open without running anything."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
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
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return text_cell(" ".join(map(str, value)))
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return text_cell(value) if isinstance(value, str) else value


def text_cell(text: str) -> str:
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
    """Whether it is a blank, or has no width (Unicode's control and format characters)."""
    return one.isspace() or unicodedata.category(one) in ("Cc", "Cf")
