"""The loop of worker and analytics: acks follow the work, transient errors are retried, all others end the process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry, Counter

from schemas.errors import StoreUnavailable
from schemas.record import Record
from streams.faust import consume as module
from streams.faust.consume import EXIT_CANNOT_GO_ON, BatchRetry, consume
from streams.faust.spans import Chunk, Span
from tests.paths import ROOT


@dataclass
class Consumed:
    """A record as aiokafka returns it."""

    offset: int
    topic: str = "billing.events"
    partition: int = 0
    key: bytes | None = b"cus_1"
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes], ...] = (("type", b"invoice.paid"),)
    timestamp: int = 1_000


@dataclass
class Event:
    value: Chunk


@dataclass
class Stream:
    """A stream of chunks that notes what was acked."""

    chunks: Sequence[Sequence[Consumed]]
    acked: list[int] = field(default_factory=list)
    enable_acks: bool = True

    async def events(self) -> AsyncIterator[Event]:
        for records in self.chunks:
            span = Span(records[0].offset, records[-1].offset + 1)
            yield Event(Chunk(records, {TP("billing.events", 0): span}))
        running = asyncio.all_tasks() - {asyncio.current_task()}
        if running:  # Faust's stream ends only when it is cancelled
            await asyncio.wait(running)

    async def ack(self, event: Event) -> None:
        self.acked += [record.offset for record in event.value.records]


def new_retry() -> BatchRetry:
    return BatchRetry("batch.retry", Counter("retries", "of this test", ["error"], registry=CollectorRegistry()))


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause", lambda _: 0.0)


async def nothing(_: BaseException, __: Sequence[Record]) -> None:
    raise AssertionError("there is nothing to give up for")


async def test_a_chunk_is_acked_after_it_is_handled_and_faust_does_not_ack_it() -> None:
    stream = Stream([[Consumed(0), Consumed(1)], [Consumed(2)]])
    handled: list[int] = []

    async def handle(records: Sequence[Record]) -> None:
        assert set(stream.acked) <= set(handled)
        assert not set(stream.acked) & {record.offset for record in records}
        assert {record.headers["type"] for record in records} == {"invoice.paid"}
        handled.extend(record.offset for record in records)

    await consume(stream, handle, nothing)
    assert (stream.acked, handled, stream.enable_acks) == ([0, 1, 2], [0, 1, 2], False)


async def test_an_error_that_no_retry_fixes_leaves_the_chunk_unacked() -> None:
    stream = Stream([[Consumed(0)], [Consumed(1)]])
    given_up: list[tuple[type[BaseException], list[int]]] = []

    async def handle(records: Sequence[Record]) -> None:
        if records[0].offset == 0:
            raise KeyError("a bug")

    async def give_up(error: BaseException, records: Sequence[Record]) -> None:
        given_up.append((type(error), [record.offset for record in records]))

    await consume(stream, handle, give_up)
    assert given_up == [(KeyError, [0])]
    assert 0 not in stream.acked


@pytest.mark.usefixtures("no_pause")
async def test_transient_errors_are_retried_and_reported_until_the_batch_succeeds() -> None:
    retry, seen = new_retry(), list[Any]()

    async def once(attempt: int) -> str:
        seen.append((attempt, retry.error, retry.since is not None))
        if attempt < 3:
            raise StoreUnavailable("no answer")
        return "done"

    assert await retry.run(once) == "done"
    text = "StoreUnavailable: no answer"
    assert seen == [(1, "", False), (2, text, True), (3, text, True)]
    assert (retry.since, retry.error) == (None, "")


@pytest.mark.usefixtures("no_pause")
async def test_the_batch_retried_longest_is_reported() -> None:
    retry, release = new_retry(), asyncio.Event()

    async def failing(attempt: int) -> None:
        if attempt == 1:
            raise StoreUnavailable("first")
        await release.wait()

    async def failing_later(attempt: int) -> None:
        if attempt == 1:
            raise StoreUnavailable("second")
        await release.wait()

    first = asyncio.create_task(retry.run(failing))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(retry.run(failing_later))
    await asyncio.sleep(0.01)
    assert retry.error == "StoreUnavailable: first"
    release.set()
    await asyncio.gather(first, second)
    assert retry.since is None


async def test_another_error_is_raised_and_no_longer_counts_as_retried() -> None:
    retry = new_retry()

    async def once(_: int) -> None:
        raise ValueError("no retry helps")

    with pytest.raises(ValueError, match="no retry helps"):
        await retry.run(once)
    assert retry.since is None


@pytest.mark.parametrize("process", ["worker", "analytics"])
def test_the_exit_is_immediate_and_names_the_process(process: str) -> None:
    """No `finally`, no commit: what an orderly stop does must not run."""
    script = (
        "from streams.faust.consume import exit_uncommitted\n"
        f"try:\n    exit_uncommitted({process!r}, KeyError('bug'))\nfinally:\n    print('stopped in order')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_CANNOT_GO_ON
    assert "stopped in order" not in done.stdout
    assert f"{process}.cannot_go_on" in done.stdout + done.stderr
