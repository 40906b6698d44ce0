"""Writes the record to Kafka and returns after the brokers confirm it: the last step of the gateway (A3, A4).

Errors:

    NotStored                 Kafka has not confirmed the record: the gateway answers 503, Stripe sends it again
    ├── Overloaded            the limit of records or bytes in flight is reached
    ├── Unconfirmed           no confirmation within the deadline, or the brokers refused the record
    └── ProducerDown          the producer had a fatal error and is not yet replaced
    RecordTooLarge            the brokers refuse a record of this size

An abandoned record may still reach the topic later. Stripe sends the event again, and the ledger drops the second one
by its event id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from confluent_kafka import KafkaError, KafkaException

from gateway.metrics import GatewayMetrics
from gateway.producer import DeliveryReport, ProducerConfig, ProducerLine
from schemas.errors import BillingError
from schemas.kafka_access import KafkaAccess, Property
from schemas.record import Headers

log = structlog.get_logger(__name__)

SUCCESSOR_AFTER_S = 1.0
"""Seconds before a failed producer is replaced, so that a broker that refuses the client is not flooded."""

STUCK_AFTER_S = 60.0
"""Seconds without a delivery report after which `stuck_reason` reports. Far longer than any deadline of a record."""

SWEEP_EVERY_S = 0.1
"""Seconds between searches for records past their deadline. A timer per record would cost more than the search."""

READY_CACHE_S = 1.0
"""Seconds for which `unready_reason` returns the same result, so that probes do not load the brokers."""


class NotStored(BillingError):
    """Kafka has not confirmed the record."""


class Overloaded(NotStored):
    """The limit of records or bytes in flight is reached."""


class Unconfirmed(NotStored):
    """Kafka did not confirm the record."""


class ProducerDown(NotStored):
    """The Kafka producer is being replaced."""


class RecordTooLarge(BillingError):
    """The brokers refuse a record of this size."""


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """Limits of records and bytes in flight (values only), and the seconds within which the brokers must confirm."""

    records: int = 4096
    bytes: int = 64 * 1024 * 1024
    confirm_within_s: float = 4.0


@dataclass(slots=True)
class _Waiting:
    """A record in flight: the future its caller awaits, its bytes, and its start (`perf_counter`)."""

    future: asyncio.Future[None]
    size: int
    since: float


class Publisher:
    """Writes records to one topic. Use it only on the event loop that started it."""

    def __init__(
        self,
        access: KafkaAccess,
        topic: str,
        metrics: GatewayMetrics,
        *,
        bounds: PublishLimits | None = None,
        overrides: Mapping[str, Property] | None = None,
    ) -> None:
        """`overrides` are librdkafka properties that replace the defaults (for tests)."""
        self._bounds = bounds or PublishLimits()
        self._topic = topic
        self._metrics = metrics
        self._config = ProducerConfig(
            access=access,
            max_records=self._bounds.records,
            # librdkafka looks for expired records once a second, so its deadline is 1 s before that of the callers.
            delivery_timeout_s=max(self._bounds.confirm_within_s - 1.0, 1.0),
            overrides=dict(overrides or {}),
        )
        self._line: ProducerLine[_Waiting] | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_bytes = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._probe = asyncio.Lock()
        self._probed_at = float("-inf")
        self._probed: str | None = None

    @property
    def in_flight(self) -> int:
        """Number of records handed to the producer and not yet settled."""
        return len(self._waiting)

    async def start(self) -> None:
        """Creates the producer. It connects in the background, also if the brokers start later."""
        self._loop = asyncio.get_running_loop()
        self._open_line()
        self._sweep(self._loop)

    async def publish(self, key: bytes, value: bytes, headers: Headers) -> None:
        """Writes the record; returns after all in-sync replicas have it. Raises NotStored or RecordTooLarge."""
        line, loop = self._line, self._loop
        if line is None or loop is None or self._closing:
            raise ProducerDown("the Kafka producer is not running")
        if len(self._waiting) >= self._bounds.records or self._waiting_bytes + len(value) > self._bounds.bytes:
            raise Overloaded(f"{len(self._waiting)} records are waiting for Kafka")
        waiting = _Waiting(loop.create_future(), len(value), time.perf_counter())
        try:
            line.produce(self._topic, key, value, headers, waiting)
        except BufferError:
            raise Overloaded("the producer's queue is full") from None
        except KafkaException as error:
            raise _exception_of(error.args[0]) from None
        # The delivery report frees the slot, not the caller's timeout: until the report the record occupies memory.
        self._waiting[id(waiting)] = waiting
        self._waiting_bytes += waiting.size
        await waiting.future

    async def unready_reason(self) -> str | None:
        """Returns why records can't be stored now, or None if the brokers answer and the topic exists."""
        async with self._probe:
            if time.monotonic() - self._probed_at > READY_CACHE_S:
                line = self._line
                if line is None or self._closing:
                    self._probed = "the Kafka producer is not running"
                else:
                    self._probed = await asyncio.to_thread(line.unready_reason, self._topic)
                self._probed_at = time.monotonic()
            return self._probed

    def stuck_reason(self) -> str | None:
        """Returns a fault that only a restart repairs, or None. A Kafka outage is not one: its records expire.

        May be called from any thread.
        """
        if self._line is not None and not self._line.is_alive:
            return "delivery reports are no longer read"
        # librdkafka reports each record within its own deadline, delivered or not.
        oldest = next(iter(list(self._waiting.values())), None)
        if oldest is not None and (waited := time.perf_counter() - oldest.since) > STUCK_AFTER_S:
            return f"the Kafka producer has not reported on a record for {waited:.0f} s"
        return None

    async def close(self, within_s: float = 5.0) -> int:
        """Waits for the records in flight, then stops. Returns how many were abandoned (and not answered 200)."""
        self._closing = True
        if self._line is not None:
            deadline = time.monotonic() + within_s
            while self._waiting and time.monotonic() < deadline:
                futures = [w.future for w in self._waiting.values() if not w.future.done()]
                left = max(deadline - time.monotonic(), 0.01)
                if futures:
                    await asyncio.wait(futures, timeout=left, return_when=asyncio.ALL_COMPLETED)
                else:  # the callers have timed out; the delivery reports are still missing
                    await asyncio.sleep(min(left, 0.05))
            line, self._line = self._line, None
            await asyncio.to_thread(line.close)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        given_up = len(self._waiting)
        self._give_up("the gateway is stopping")
        return given_up

    def _open_line(self) -> None:
        if not self._closing:
            loop = asyncio.get_running_loop()
            self._line = ProducerLine(self._config, loop, on_reports=self._settle, on_fatal=self._replace)

    def _settle(self, line: ProducerLine[_Waiting], reports: list[DeliveryReport[_Waiting]]) -> None:
        if line is not self._line:
            return  # late reports of a replaced producer: its records were abandoned
        now = time.perf_counter()
        for waiting, error in reports:
            if self._waiting.pop(id(waiting), None) is None:
                continue
            self._waiting_bytes -= waiting.size
            if error is None:
                self._metrics.produce_seconds.observe(now - waiting.since)
            if waiting.future.done():
                continue
            if error is None:
                waiting.future.set_result(None)
            else:
                waiting.future.set_exception(_exception_of(error))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fails the records that have waited past the deadline. `_waiting` is in order of arrival, oldest first."""
        latest = time.perf_counter() - self._bounds.confirm_within_s
        for waiting in self._waiting.values():
            if waiting.since > latest:
                break
            if not waiting.future.done():
                reason = f"no confirmation within {self._bounds.confirm_within_s:g} s"
                waiting.future.set_exception(Unconfirmed(reason))
        self._sweep_timer = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)

    def _replace(self, line: ProducerLine[_Waiting], reason: str) -> None:
        """Replaces a producer after a fatal error, which an idempotent producer does not survive.

        All its records are abandoned before the new producer takes any, so the records that are answered 200 keep
        the order of their key.
        """
        if line is not self._line:
            return
        log.error("kafka producer failed, replacing it", action="kafka.producer_failed", error=reason)
        self._metrics.producer_failures.inc()
        self._line = None
        self._give_up("the Kafka producer failed")
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, line.close)
        if not self._closing:
            loop.call_later(SUCCESSOR_AFTER_S, self._open_line)

    def _give_up(self, reason: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(ProducerDown(reason))
        self._waiting.clear()
        self._waiting_bytes = 0


def _exception_of(error: KafkaError) -> NotStored | RecordTooLarge:
    # Only the name of the error code: librdkafka's text contains broker addresses.
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLarge("the record is larger than the topic allows")
    return Unconfirmed(f"Kafka did not take the record: {error.name()}")
