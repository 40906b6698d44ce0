"""docs/analytics.md names every column of the figures."""

from __future__ import annotations

import re

from analytics.tables import FIGURE_TABLES
from tests.paths import ROOT

_OWNER = {"account", "livemode", "owner"}


def test_G55_the_page_has_every_column_of_the_figures() -> None:
    page = (ROOT / "docs/analytics.md").read_text().split("## The tables")[1]
    documented: dict[str, set[str]] = {}
    table = ""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 3 or not cells[1].startswith("`"):
            continue
        table = cells[0].strip("`") or table
        documented.setdefault(table, set()).update(re.findall(r"`(\w+)`", cells[1]))
    assert documented == {one.name: {column.name for column in one.columns} - _OWNER for one in FIGURE_TABLES.values()}
