"""F5: whatever a plugin's handler does, its notification is tried again, and the dispatcher goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.plugin import Handle, Handler
from sinks.feed.answers import Answer
from sinks.feed.notifications import QueuedNotification
from sinks.feed.poster import HandlerPoster
from tests.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = QueuedNotification(
    key="acme-crm:msg_1", event_id="evt_1", account="", customer_id="cus_1", livemode=False, destination="acme-crm",
    message_id="msg_1", type="acme.news", version=1, occurred_at=NOW, data={}, attempts=1, status="sending",
    last_error=None, now=NOW, age=timedelta(0), deadline=0.0,
)  # fmt: skip


def _poster(handle: Handle, **limits: float) -> HandlerPoster:
    return HandlerPoster(Handler("acme-crm", ("*",), handle), **({"total_s": 60.0} | limits))


async def _cancels_itself(_: Mapping[str, Any]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def _lets_out_cancelled(_: Mapping[str, Any]) -> None:
    raise asyncio.CancelledError


async def _exits(_: Mapping[str, Any]) -> None:
    sys.exit(0)


async def _times_out(_: Mapping[str, Any]) -> None:
    raise TimeoutError("the CRM is slow")


async def _hangs(_: Mapping[str, Any]) -> None:
    await asyncio.Event().wait()


async def _hides_its_end(_: Mapping[str, Any]) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise RuntimeError("closed") from None


@pytest.mark.parametrize(
    ("handle", "total_s", "reason"),
    [
        (_cancels_itself, 60.0, "the handler was cancelled"),
        (_lets_out_cancelled, 60.0, "the handler was cancelled"),
        (_exits, 60.0, "SystemExit: 0"),
        (_times_out, 60.0, "TimeoutError: the CRM is slow"),
        (_hangs, 0.01, "no answer within 0.01 s"),
        (_hides_its_end, 0.01, "no answer within 0.01 s"),
    ],
)
async def test_F5_a_handler_that_does_not_return_has_failed(handle: Handle, total_s: float, reason: str) -> None:
    assert await _poster(handle, total_s=total_s).post(ROW) == Answer(0, reason)


async def test_F5_a_handler_that_ignores_its_cancellation_is_not_called_again_before_it_ends() -> None:
    may_end, calls = asyncio.Event(), 0

    async def handle(_: Mapping[str, Any]) -> None:
        nonlocal calls
        calls += 1
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    poster = _poster(handle, total_s=0.01, grace_s=0.01)
    assert await poster.post(ROW) == Answer(0, "no answer within 0.01 s")
    assert await poster.post(ROW) == Answer(0, "an earlier call still runs, although it was cancelled")
    assert calls == 1
    may_end.set()

    async def is_called_again() -> bool:
        return await poster.post(ROW) == Answer(200)

    await eventually(is_called_again, "a call after the earlier one has ended")


async def test_F5_the_end_of_a_lane_ends_its_call() -> None:
    has_begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(_: Mapping[str, Any]) -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    lane = asyncio.create_task(_poster(handle).post(ROW))
    await has_begun.wait()
    lane.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lane
    await asyncio.wait_for(ended.wait(), 60)
