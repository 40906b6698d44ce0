"""Writes rows as CSV that spreadsheets can open without running anything."""

from __future__ import annotations

import csv
import io
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

_STARTS_A_FORMULA = ("=", "+", "-", "@")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
"""Characters without width, which spreadsheets skip and `strip` keeps."""


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
    """Returns the text as a cell that no spreadsheet runs as a formula."""
    return f"'{text}" if is_formula(text) else text


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run the text: its first visible character begins a formula, also in full width."""
    if text.startswith(("\t", "\r")):
        return True
    normal = unicodedata.normalize("NFKC", text.lstrip(string.whitespace + _INVISIBLE + "\0"))
    return normal.lstrip().lstrip(_INVISIBLE).lstrip().startswith(_STARTS_A_FORMULA)
