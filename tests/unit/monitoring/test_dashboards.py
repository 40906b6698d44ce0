"""docs/dashboards: each query of the operators' dashboard parses and names only metrics that the processes export."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kits.dashboards import DASHBOARDS, Dashboard
from tests.paths import ROOT

PROMTOOL = shutil.which("promtool")
EACH = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)


@EACH
def test_a_dashboard_can_be_imported_anywhere(dashboard: Dashboard) -> None:
    """A fixed uid keeps its links; data sources are variables; panel ids are unique; each panel has a unit."""
    assert re.fullmatch(r"billing-\w+", dashboard.document["uid"])
    ids = [panel["id"] for panel in dashboard.document["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in dashboard.document["templating"]["list"]}
    for panel in dashboard.panels:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"].strip("${}") in variables, panel["title"]
    for _, query in dashboard.queries:
        named = set(re.findall(r"\$\{?([A-Za-z]\w*)", query)) - {"__rate_interval"}
        assert named <= variables, query


@EACH
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.document["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def prometheus_queries() -> list[str]:
    return [query for dashboard in DASHBOARDS for kind, query in dashboard.queries if kind == "prometheus"]


def test_every_metric_is_one_that_the_processes_show() -> None:
    """docs/metrics.md is compared with the running processes by tests/e2e/test_readers.py."""
    documented = set(re.findall(r"^\| `(billing_\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert len(prometheus_queries()) > 50
    for query in prometheus_queries():
        asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bbilling_\w+", query)}
        assert asked, query
        assert asked <= documented, query


def test_every_metric_of_an_alarm_is_on_the_dashboard() -> None:
    """Who is alarmed sees the value there, and what it was before."""
    alarmed = set(re.findall(r"\bbilling_\w+", (ROOT / "docs" / "alerts.yml").read_text()))
    assert len(alarmed) > 15
    assert alarmed <= {name for query in prometheus_queries() for name in re.findall(r"\bbilling_\w+", query)}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(prometheus_queries())
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "rules", "queries.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
