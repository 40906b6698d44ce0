"""Every setting has its line in the documentation."""

from __future__ import annotations

import re

from schemas.database_settings import DatabaseSettings
from schemas.settings import Settings
from tests.paths import ROOT


def test_each_setting_is_documented() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"BILLING_[A-Z0-9_]+", page.read_text())}
    fields = {**Settings.model_fields, **DatabaseSettings.model_fields}
    names = {f"BILLING_{name.upper()}" for name in fields} - {"BILLING_CONFIG_PATH"} | {"BILLING_CONFIG"}
    assert names - named == set(), "add them to docs/operations.md"
