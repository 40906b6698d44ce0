"""The Grafana dashboards of docs/dashboards, and their queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.paths import ROOT


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard as Grafana imports it."""

    name: str
    document: dict[str, Any]

    @property
    def panels(self) -> list[dict[str, Any]]:
        """Its panels without the headings of rows."""
        return [panel for panel in self.document["panels"] if panel["type"] != "row"]

    @property
    def queries(self) -> list[tuple[str, str]]:
        """The kind of data source (`prometheus`, `postgres`) and the query of each target and variable."""
        found = [
            ("prometheus", target["expr"]) if "expr" in target else ("postgres", target["rawSql"])
            for panel in self.panels
            for target in panel["targets"]
        ]
        variables = self.document["templating"]["list"]
        return found + [("postgres", variable["query"]) for variable in variables if variable["type"] == "query"]


DASHBOARDS: Sequence[Dashboard] = [
    Dashboard(path.stem, orjson.loads(path.read_bytes()))
    for path in sorted((ROOT / "docs" / "dashboards").glob("*.json"))
]
