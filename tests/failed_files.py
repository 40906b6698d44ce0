"""Prints the test files to run again: `python -m tests.failed_files REPORT STATUS` (xunit1; pytest's exit code)."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from xml.etree import ElementTree

TESTS_FAILED = 1
"""pytest's exit code after a whole run with failures. After others (interrupted, broken) some never ran."""

MOST = 10
"""With more failed files something is wrong with the change, not with one test."""


def failed_files(report: Path) -> list[str]:
    """Returns the paths of the files with a failed or broken test, each once, in order."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    failed = (case.get("file") for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return sorted({file for file in failed if file is not None})


def to_run_again(report: Path, status: int) -> list[str]:
    """Returns the files whose second run decides. Raises SystemExit with the reason if that would prove nothing."""
    if status != TESTS_FAILED:
        raise SystemExit(f"pytest ended with exit code {status}: tests did not run, so none is run again")
    files = failed_files(report)
    if not 0 < len(files) <= MOST:
        raise SystemExit(f"{len(files)} files failed: they are run again if they are 1 to {MOST}")
    return files


def main() -> None:
    parser = ArgumentParser(prog="python -m tests.failed_files", description="Prints the test files to run again.")
    parser.add_argument("report", type=Path, metavar="REPORT", help="pytest's JUnit report (xunit1)")
    parser.add_argument("status", type=int, metavar="STATUS", help="pytest's exit code")
    given = parser.parse_args()
    print("\n".join(to_run_again(given.report, given.status)))  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
