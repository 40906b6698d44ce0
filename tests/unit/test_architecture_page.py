"""docs/architecture.md names each folder of the product, and classes and functions that the code has."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
PRODUCT = ("analytics", "bench", "console", "eventlog", "gateway", "local", "ops", "recovery", "scheduler", "schemas")
PACKAGES = sorted(
    file.parent.relative_to(ROOT).as_posix()
    for top in (*PRODUCT, "sinks", "streams")
    for file in (ROOT / top).rglob("__init__.py")
    if file.parent.name != "versions"  # of migrations
)
_NAME = re.compile(r"`(_?[A-Z][A-Za-z]*[a-z][A-Za-z]*|_?[A-Z]+_[A-Z_]+|test_\w+)`")
_PLACEHOLDER = "BILLING_NAME"
"""A placeholder for any setting."""


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in ("ops", "recovery", "sinks")])
def test_each_folder_is_in_the_tree(package: str) -> None:
    """The three that are left out only contain folders."""
    assert f"](../{package}/)" in PAGE


def test_each_name_is_in_the_code() -> None:
    named = set(_NAME.findall(PAGE)) - {_PLACEHOLDER}
    assert len(named) > 30
    code = " ".join(
        file.read_text() for top in (*PRODUCT, "sinks", "streams", "tests") for file in (ROOT / top).rglob("*.py")
    )
    known = set(re.findall(r"\w+", code))
    assert sorted(named - known) == []
