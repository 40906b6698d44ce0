"""Realistic sample data for each mail, used by the previews, by the check of own wordings and by the tests.

A sample is a file next to the folder of templates, `sample_data/NAME.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from schemas.plugin import Plugin
from schemas.plugin_registry import follow

_FOLDER = Path(__file__).parent / "sample_data"

SAMPLES: dict[str, Mapping[str, Any]] = {}
"""Template name → the data of its mail, also of plugins."""


def _with_plugins(plugins: Sequence[Plugin]) -> None:
    SAMPLES.clear()
    SAMPLES.update({file.stem: orjson.loads(file.read_bytes()) for file in sorted(_FOLDER.glob("*.json"))})
    SAMPLES.update({name: mail.sample for plugin in plugins for name, mail in plugin.mails.items()})


follow(_with_plugins)
