"""`billing worker` with fixed rules: it reads the malformed values of history.py as the correct ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import uvloop

import streams.process
from ops.commands.terminal import settings_and_config
from ops.processes.worker import run
from streams.decode import Decoded, decode
from streams.rules.registry import Rule


def mended(value: bytes) -> bytes:
    """The event's bytes with the malformed values of history.py corrected."""
    event = orjson.loads(value)
    if "spoilt" not in event:
        return value
    obj: dict[str, Any] = event["data"]["object"]
    meant = {"status": ("frozen", "active"), "currency": ("zzz", "eur"), "mode": ("barter", "subscription")}
    for name, (wrong, right) in meant.items():
        if obj.get(name) == wrong:
            obj[name] = right
    if obj.get("email") == 42:
        obj["email"] = "mended@example.com"
    if obj.get("amount_due") == "29.00":
        obj["amount_due"] = 2900
    if obj.get("attempt_count") == -1:
        obj["attempt_count"] = 1
    return orjson.dumps(event)


def decode_mended(value: bytes, rules: Mapping[str, Rule]) -> Decoded:
    return decode(mended(value), rules)


if __name__ == "__main__":
    setattr(streams.process, "decode", decode_mended)  # noqa: B010  # a plain assignment is a type error
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*settings_and_config("worker"), frozenset()))
