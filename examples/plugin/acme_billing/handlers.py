"""The handlers of the plugin: they may do anything, and are called again until they succeed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acme_billing.rules import plugin


@plugin.handler("file", events=("acme.large_payment",))
async def write_line(message: Mapping[str, Any]) -> None:
    """Appends the message to a file. A real one would call a CRM, with `message["id"]` as its key against repeats."""
    with Path(os.environ["ACME_FILE"]).open("a") as file:  # noqa: ASYNC230  # short, and an example
        file.write(json.dumps(message) + "\n")
