"""The loop of each consumer of the log (worker, analytics): takes chunks from Faust, passes their records on, acks.

No exception may leave the loop, because Faust would ack the chunk and lose it (faust-streaming issues 315, 527). A
transient error is retried without limit while the chunk's partitions wait. Any other error ends the process with its
offsets uncommitted; the supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog
from prometheus_client import Counter

from schemas.errors import CannotBury, Transient
from schemas.record import Record, decode_headers
from schemas.storable import bounded, reason_text
from schemas.timing import pause
from streams.lanes import PartitionLanes

T = TypeVar("T")

EXIT_CANNOT_GO_ON = 70
"""Exit code (EX_SOFTWARE) of a consumer with a batch that it can neither process nor leave out."""

log = structlog.get_logger()


def exit_uncommitted(process: str, error: BaseException, records: Sequence[Record] = ()) -> None:
    """Ends the process at once. An orderly stop would commit offsets. `process` is its name in the log line.

    The line names the record that is to blame, else the first one of `records`, the batch that failed.
    """
    action = f"{process}.cannot_go_on"
    log.critical(action, action=action, **blamed(error, records), error=reason_text(repr(error)), exc_info=error)
    os._exit(EXIT_CANNOT_GO_ON)


def blamed(error: BaseException, records: Sequence[Record]) -> dict[str, object]:
    """Returns topic, partition, offset and event id of the failed record, and the batch's size if it is a batch."""
    if isinstance(error, CannotBury):
        topic, partition, offset = error.place
        return {"topic": topic, "partition": partition, "offset": offset, "event_id": error.event_id}
    if not records:
        return {}
    first = records[0]
    event_id = bounded(first.headers.get("event_id", ""))
    place: dict[str, object] = {"topic": first.topic, "partition": first.partition, "offset": first.offset}
    return place | {"event_id": event_id, "batch": len(records)}


class BatchRetry:
    """Retries batches while their error is transient, and keeps the errors for /readyz and the watchdog."""

    def __init__(self, action: str, retries: Counter) -> None:
        """`action` is the log line's; `retries` has the label `error`."""
        self._action = action
        self._retries = retries
        self._retrying: dict[int, tuple[float, str]] = {}
        """Batches that are being retried, by a number: monotonic time of the first failure, and the last error."""
        self._batches = 0

    @property
    def since(self) -> float | None:
        """Monotonic time of the first failure of the batch retried longest; None if no batch is being retried."""
        return min(self._retrying.values())[0] if self._retrying else None

    @property
    def error(self) -> str:
        """The last error of that batch; empty if no batch is being retried."""
        return min(self._retrying.values())[1] if self._retrying else ""

    async def run(self, once: Callable[[int], Awaitable[T]]) -> T:
        """Awaits `once(attempt)`, attempt = 1, 2, …, until it raises no transient error. Raises all other errors."""
        self._batches += 1
        batch, attempt = self._batches, 1
        try:
            while True:
                try:
                    return await once(attempt)
                except Transient as error:
                    await self._wait_out(batch, attempt, error)
                    attempt += 1
        finally:
            self._retrying.pop(batch, None)

    async def _wait_out(self, batch: int, attempt: int, error: Transient) -> None:
        text = f"{type(error).__name__}: {error}"
        since, _ = self._retrying.get(batch, (time.monotonic(), ""))
        self._retrying[batch] = since, text
        wait = pause(attempt)
        log.warning(self._action, action=self._action, error=text, attempt=attempt, wait_s=round(wait, 2))
        self._retries.labels(error=type(error).__name__).inc()
        await asyncio.sleep(wait)


async def consume(
    stream: Any,
    handle: Callable[[Sequence[Record]], Awaitable[None]],
    give_up: Callable[[BaseException, Sequence[Record]], Awaitable[None]],
    *,
    lanes: int = 1,
) -> None:
    """Consumes a Faust stream of chunks (streams/faust/chunks.py) until it ends; acks what `handle` has returned from.

    `lanes` is the number of chunks in flight at once, of different partitions. `give_up` gets the error and the chunk's
    records, and must end the process.
    """
    stream.enable_acks = False  # Faust's own acks, which come before the work

    async def take(event: Any) -> None:
        records: list[Record] = []
        try:
            records += [_record_of(record) for record in event.value.records]
            await handle(records)
            await stream.ack(event)
        except asyncio.CancelledError:
            raise  # Faust is stopping the agent; records without an ack are read again
        except BaseException as error:  # noqa: BLE001  # no exception may leave the loop: see the module docstring
            await give_up(error, records)

    in_flight = PartitionLanes(lanes)
    try:
        async for event in stream.events():
            await in_flight.start(event.value.partitions, take(event))
    finally:
        await in_flight.cancel()


def _record_of(consumed: Any) -> Record:
    """Converts aiokafka's record to a `Record`."""
    headers = consumed.headers
    return Record(
        topic=consumed.topic,
        partition=consumed.partition,
        offset=consumed.offset,
        key=consumed.key,
        value=consumed.value,
        raw_headers=headers,
        headers=decode_headers(headers),
        timestamp=consumed.timestamp / 1000,
    )
