"""The list of files that .ci/run tests a second time."""

from __future__ import annotations

from pathlib import Path

from tests.failed_files import failed_files


def test_files_with_a_failure_are_listed_once(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase file="b.py"><failure/></testcase><testcase file="b.py"><failure/></testcase>'
        '<testcase file="a.py"><error/></testcase><testcase file="c.py"/></testsuite></testsuites>'
    )
    assert failed_files(report) == ["a.py", "b.py"]
