"""The loop of an outbox: it returns only after `stop`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.timing import utc_now
from sinks.feed.metrics import FeedMetrics
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.pace import LoopPace
from sinks.outbox.verdicts import Done, Verdict


class _Loop(OutboxLoop[Any]):
    """Lanes that end with `error` at their first turn."""

    action = row_action = down_action = up_action = store_check = lanes_check = "test"
    service_check = None

    def __init__(self, error: BaseException | None) -> None:
        no_claims: Any = None  # no turn gets that far
        super().__init__(no_claims, FeedMetrics(CollectorRegistry(), ()), clock=utc_now, pace=LoopPace(0.01), lanes=2)
        self._error = error

    async def turn(self, _lane: int) -> bool:
        if self._error is not None:
            raise self._error
        self.stop()
        return False

    async def watch(self) -> None:
        """Measures nothing."""

    async def deliver(self, _row: Any, _lane: int) -> Verdict:
        return Done()

    def fields(self, _row: Any) -> Mapping[str, object]:
        return {}


async def test_F5_a_cancelled_lane_is_an_error_and_not_the_end_of_the_work() -> None:
    """Otherwise the dispatcher would end with exit code 0, and its supervisor would not start it again."""
    with pytest.raises(RuntimeError, match="test: a lane was cancelled before the stop"):
        await asyncio.wait_for(_Loop(asyncio.CancelledError()).run(), 60)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(_Loop(ZeroDivisionError()).run(), 60)
    await asyncio.wait_for(_Loop(None).run(), 60)
