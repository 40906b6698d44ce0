"""Lists the skipped tests of a JUnit report, by reason: `python -m tests.skipped_tests REPORT [PROMISED …]`.

Exits 1 if a reason names a program that was promised: it is installed here, and its tests were skipped all the same.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree


def skipped(report: Path) -> Counter[str]:
    """Returns the number of skipped tests by reason."""
    found = (case.find("skipped") for case in ElementTree.parse(report).getroot().iter("testcase"))
    return Counter(one.get("message") or "no reason" for one in found if one is not None)


def broken_promises(reasons: Counter[str], promised: Sequence[str]) -> list[str]:
    """Returns the reasons that name a promised program."""
    return sorted(reason for reason in reasons if any(program in reason for program in promised))


def main(report: Path, promised: Sequence[str]) -> int:
    reasons = skipped(report)
    for reason, count in sorted(reasons.items()):
        print(f"skipped {count}: {reason}")  # noqa: T201  # a command's output
    broken = broken_promises(reasons, promised)
    for reason in broken:
        print(f"must not be skipped here: {reason}", file=sys.stderr)  # noqa: T201  # as above
    return 1 if broken else 0


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m tests.skipped_tests", description="Lists the skipped tests by reason.")
    parser.add_argument("report", type=Path, metavar="REPORT", help="pytest's JUnit report")
    parser.add_argument("promised", nargs="*", metavar="PROMISED", help="a program whose tests may not be skipped")
    given = parser.parse_args()
    raise SystemExit(main(given.report, given.promised))
