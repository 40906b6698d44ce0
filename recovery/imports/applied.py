"""Waits until the workers have applied what an import has appended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from eventlog.lag import GroupPositions
from schemas.errors import LogUnavailable
from schemas.settings import Settings

_PAUSE_S = 1.0


async def wait_until_applied(settings: Settings, *, idle_s: float, say: Callable[[int, int], None]) -> bool:
    """Return whether the workers have applied all that is on the log now. Raises LogUnavailable if it is not read.

    False if they make no progress for `idle_s` seconds: they do not run, or something holds them. `say` gets the number
    of applied records and of all that were waited for.
    """
    group = f"{settings.topic_prefix}.worker"
    positions = GroupPositions(settings.kafka, group, settings.events_topic)
    ends: dict[int, int] = {}
    first = least = None
    moved_at = time.monotonic()
    try:
        while True:
            found = await asyncio.to_thread(positions.read)
            if found is not None:
                ends = ends or {partition: position.end for partition, position in found.items()}
                left = sum(max(0, end - found[at].committed) for at, end in ends.items() if at in found)
                first = left if first is None else first
                if least is None or left < least:
                    least, moved_at = left, time.monotonic()
                    say(first - left, first)
                if left == 0:
                    return True
            if time.monotonic() - moved_at > idle_s:
                if found is None:
                    raise LogUnavailable(f"Kafka has not said within {idle_s:g} s what the workers have applied")
                return False
            await asyncio.sleep(_PAUSE_S)
    finally:
        positions.close()
