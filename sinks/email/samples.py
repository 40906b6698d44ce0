"""Realistic sample data for each mail, used by the previews, by the check of own wordings and by the tests.

A sample is a file next to the folder of templates, `sample_data/NAME.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

_FOLDER = Path(__file__).parent / "sample_data"

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    file.stem: orjson.loads(file.read_bytes()) for file in sorted(_FOLDER.glob("*.json"))
}
"""Template name → the data of its mail."""
