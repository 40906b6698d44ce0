"""The list of files that .ci/run tests a second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.failed_files import MOST, failed_files, to_run_again


def test_files_with_a_failure_are_listed_once(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase file="b.py"><failure/></testcase><testcase file="b.py"><failure/></testcase>'
        '<testcase file="a.py"><error/></testcase><testcase file="c.py"/></testsuite></testsuites>'
    )
    assert failed_files(report) == ["a.py", "b.py"]
    assert to_run_again(report, 1) == ["a.py", "b.py"]


@pytest.mark.parametrize("status", [2, 3, 4, 5, 130, 137])
def test_a_run_that_was_cut_off_is_not_made_green_by_the_files_that_it_reached(tmp_path: Path, status: int) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite><testcase file="a.py"><failure/></testcase></testsuite></testsuites>')
    with pytest.raises(SystemExit, match=f"exit code {status}"):
        to_run_again(report, status)
    with pytest.raises(SystemExit):
        to_run_again(tmp_path / "was never written", status)


@pytest.mark.parametrize("failed", [0, MOST + 1])
def test_no_failed_file_or_too_many_are_not_run_again(tmp_path: Path, failed: int) -> None:
    report = tmp_path / "report.xml"
    cases = "".join(f'<testcase file="{number}.py"><failure/></testcase>' for number in range(failed))
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    with pytest.raises(SystemExit, match=f"{failed} files"):
        to_run_again(report, 1)
