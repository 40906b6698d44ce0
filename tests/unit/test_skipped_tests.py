"""What .ci/run says about skipped tests, and when it fails because of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.skipped_tests import main

CASE = '<testcase file="a.py"><skipped type="pytest.skip" message="{}"/></testcase>'


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    reasons = ("pgbouncer is not installed", "pgbouncer is not installed", "no recorded events")
    cases = "".join(CASE.format(reason) for reason in reasons) + '<testcase file="b.py"/>'
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_each_reason_is_listed_with_its_number(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(report, ["stripe-mock"]) == 0
    assert capsys.readouterr().out == "skipped 1: no recorded events\nskipped 2: pgbouncer is not installed\n"


def test_a_promised_program_is_not_skipped(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(report, ["pgbouncer"]) == 1
    assert capsys.readouterr().err == "must not be skipped here: pgbouncer is not installed\n"
