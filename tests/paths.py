"""Paths of the checkout and of the recorded events next to it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RECORDED_EVENTS = SHARED / "events"
MADE = frozenset({"site", "build", "dist"})
"""Folders of the checkout that commands make: `make docs` copies the examples, for example."""
