"""docs/alerts.yml: each rule fires and is silent when it should, as Prometheus' own promtool evaluates it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import ROOT

FILE = ROOT / "docs" / "alerts.yml"
RULES = {rule["alert"]: rule for rule in yaml.safe_load(FILE.read_text())["groups"][0]["rules"]}
CASES: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("alert_cases.yml").read_text())
PROMTOOL = shutil.which("promtool")


def test_each_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert CASES.keys() == RULES.keys()
    assert all(cases.keys() == {"fires", "silent"} for cases in CASES.values())


def test_each_rule_says_how_urgent_it_is_what_it_means_and_where_to_read_on() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.+)$", runbook, re.M)
    }
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"].keys() == {"summary", "runbook_url"}, name
        assert rule["annotations"]["summary"], name
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md", name
        assert anchor in headings, name


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
def test_prometheus_evaluates_each_rule_as_its_cases_say(tmp_path: Path) -> None:
    """One run for all cases, each with its own rule only: promtool names the alert and minute of what differs."""
    pages: list[str] = []
    for name, cases in CASES.items():
        (tmp_path / f"{name}.rules").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [RULES[name]]}]}))
        for kind, case in cases.items():
            page = {
                "rule_files": [f"{name}.rules"],
                "evaluation_interval": f"{case.get('every', 1)}m",
                "tests": [_case(name, kind, case)],
            }
            pages.append(f"{name}-{kind}.yml")
            (tmp_path / pages[-1]).write_text(yaml.safe_dump(page))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", *pages],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str, kind: str, case: dict[str, Any]) -> dict[str, Any]:
    rule = RULES[name]
    alert = {"exp_labels": rule["labels"] | case.get("labels", {}), "exp_annotations": rule["annotations"]}
    return {
        "name": f"{name} {kind}",
        "interval": f"{case.get('every', 1)}m",
        "input_series": [{"series": series, "values": values} for series, values in case["series"].items()],
        "alert_rule_test": [
            {"eval_time": f"{case['at']}m", "alertname": name, "exp_alerts": [alert] if kind == "fires" else []}
        ],
    }
