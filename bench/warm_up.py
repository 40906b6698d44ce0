"""The load before a measurement, so that it measures warm processes. It is the same for all rivals."""

from __future__ import annotations

from bench.load import Load
from bench.posting import post_all, requests_of

EVENTS = 5_000
"""Until Python has specialized its byte code, each connection is open, and statements are prepared."""


async def warm_up(port: int, connections: int, events: int = EVENTS) -> int:
    """Post events that are not measured. Returns the number of different ones. Raises NotAccepted."""
    load = Load(events, seed=2, prefix="w")
    await post_all(port, requests_of(list(load.bodies()), "127.0.0.1"), connections)
    return load.distinct
