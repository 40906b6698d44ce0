"""The loop of an outbox: it returns only after `stop`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.errors import StoreUnavailable
from schemas.timing import utc_now
from sinks.email.outbox import MailOutbox
from sinks.feed.metrics import FeedMetrics
from sinks.outbox.claim_size import ClaimSize
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.pace import LoopPace
from sinks.outbox.verdicts import Done, RetryAt, Verdict


class _Loop(OutboxLoop[Any]):
    """Lanes that end with `error` at their first turn."""

    action = row_action = down_action = up_action = store_check = lanes_check = "test"
    service_check = None

    def __init__(self, error: BaseException | None) -> None:
        claims: Any = _Claims(0)
        super().__init__(claims, FeedMetrics(CollectorRegistry(), ()), clock=utc_now, pace=LoopPace(0.01), lanes=2)
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


@dataclass
class _Row:
    key: str
    deadline: float = math.inf
    attempts: int = 1
    status: str = "busy"
    last_error: str | None = None
    is_shadow: bool = False
    now: datetime = field(default_factory=utc_now)


class _Claims:
    """An outbox of so many rows. `away_at` is the key whose result cannot be stored at first."""

    queue, is_shadow, claimer = MailOutbox.queue, False, "one"

    def __init__(self, rows: int, away_at: str = "") -> None:
        self.due = [_Row(str(number)) for number in range(rows)]
        self.away_at = away_at
        self.sizes: list[int] = []
        self.given_back: list[str] = []
        self.retried: list[str] = []
        self.is_restored = False

    async def has_due(self) -> bool:
        return bool(self.due)

    async def check_not_restored(self) -> None:
        if self.is_restored:
            raise StoreUnavailable("restored")

    async def claim(self, limit: int, **_: object) -> list[_Row]:
        self.sizes.append(limit)
        claimed, self.due = self.due[:limit], self.due[limit:]
        return claimed

    async def retry(self, row: _Row, *_: object) -> bool:
        if row.key == self.away_at:
            self.away_at = ""
            raise StoreUnavailable("away")
        self.retried.append(row.key)
        return True

    async def give_back(self, row: _Row, *_: object) -> bool:
        self.given_back.append(row.key)
        return True


class _Retrying(_Loop):
    """Delivers rows until none is due."""

    def __init__(self, claims: Any) -> None:
        super().__init__(None)
        self._claims = claims
        self._sizes = [ClaimSize(4, 32)]

    async def deliver(self, _row: Any, _lane: int) -> Verdict:
        return RetryAt(timedelta(0), "later")

    async def turn(self, lane: int) -> bool:
        return await OutboxLoop.turn(self, lane)


async def test_claims_of_a_quick_lane_grow() -> None:
    claims = _Claims(4 + 8 + 16 + 32 + 32 + 3)
    lane = _Retrying(claims)
    while await lane.turn(0):
        pass
    assert claims.sizes == [4, 8, 16, 32, 32, 32]
    assert len(claims.retried) == 95


async def test_rows_of_a_claim_during_which_postgres_was_away_are_given_back() -> None:
    """They do not wait for the end of the claim. The row whose result was not stored does: it may have been sent."""
    claims = _Claims(4, away_at="1")
    lane = _Retrying(claims)
    with pytest.raises(StoreUnavailable):
        await lane.turn(0)
    assert claims.given_back == []
    assert not await lane.turn(0)
    assert (claims.retried, claims.given_back) == (["0"], ["2", "3"])


async def test_T11_rows_claimed_from_a_restored_database_are_not_delivered() -> None:
    """A lane whose last claim was full does not ask what is due, so it would not notice before its next claim."""
    claims = _Claims(12)
    lane = _Retrying(claims)
    assert await lane.turn(0)
    claims.is_restored = True
    with pytest.raises(StoreUnavailable, match="restored"):
        await lane.turn(0)
    assert claims.retried == ["0", "1", "2", "3"]
    claims.is_restored = False
    claims.due = []
    assert not await lane.turn(0)
    assert claims.given_back == [str(number) for number in range(4, 12)]


class _Ending(_Retrying):
    """A lane that ends in the middle of a claim, as by a bug; or waits there until it is cancelled."""

    def __init__(self, claims: Any, error: Exception | None) -> None:
        super().__init__(claims)
        self._error = error
        self.is_delivering = asyncio.Event()

    async def deliver(self, row: Any, _lane: int) -> Verdict:
        if row.key == "1":
            self.is_delivering.set()
            if self._error is not None:
                raise self._error
            await asyncio.Event().wait()
        return RetryAt(timedelta(0), "later")


async def test_F5_what_a_lane_has_not_tried_is_given_back_however_it_ends() -> None:
    """Otherwise these rows would wait for the claim's end and have lost a try. The row being delivered may be out."""
    claims = _Claims(4)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(_Ending(claims, ZeroDivisionError()).run(), 60)
    assert (claims.retried, claims.given_back) == (["0"], ["2", "3"])
    claims = _Claims(4)
    loop = _Ending(claims, None)
    running = asyncio.create_task(loop.run())
    await asyncio.wait_for(loop.is_delivering.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 60)
    assert (claims.retried, claims.given_back) == (["0"], ["2", "3"])


async def test_F5_an_outbox_that_is_away_does_not_delay_the_end() -> None:
    class _Away(_Claims):
        async def give_back(self, row: _Row, *_: object) -> bool:
            raise StoreUnavailable(f"away: {row.key}")

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(_Ending(_Away(4), ZeroDivisionError()).run(), 60)
