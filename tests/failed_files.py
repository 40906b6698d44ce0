"""Prints the test files with failures of a JUnit report: `python -m tests.failed_files REPORT` (xunit1)."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def failed_files(report: Path) -> list[str]:
    """Returns the paths of the files with a failed or broken test, each once, in order."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    failed = (case.get("file") for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return sorted({file for file in failed if file is not None})


if __name__ == "__main__":
    print("\n".join(failed_files(Path(sys.argv[1]))))  # noqa: T201 - a command's output
