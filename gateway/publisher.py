"""Last station: the record onto Kafka, and an answer only when the brokers have it (behaviours A3, A4).

Errors, drawn as a tree:

    NotStored                 the record is not known to be on Kafka: answer 503, Stripe sends it again
    ├── Overloaded            as many records are under way as may be
    ├── Unconfirmed           no confirmation within the deadline, or the brokers refused
    └── ProducerDown          the producer met a fatal error and its successor is not up yet
    RecordTooLarge            the brokers will never take a record of this size

A record that is given up on may still reach the topic later; the event comes again and the ledger knows it by its id.
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
from schemas.record import Headers

log = structlog.get_logger(__name__)

SUCCESSOR_AFTER_S = 1.0
"""Pause before a new producer follows a failed one, so that a broker that refuses us is not hammered."""

STUCK_AFTER_S = 60.0
"""Far beyond every deadline of a record's."""

SWEEP_EVERY_S = 0.1
"""How often records are looked through for those that wait too long: a timer for each would cost more than its work."""

READY_CACHE_S = 1.0
"""How long an answer of `unready_reason` holds: probes must not become a load of their own."""


class NotStored(Exception):
    """The record is not known to be on Kafka."""


class Overloaded(NotStored):
    """As many records are under way as may be."""


class Unconfirmed(NotStored):
    """Kafka did not confirm the record."""


class ProducerDown(NotStored):
    """The Kafka producer is being replaced."""


class RecordTooLarge(Exception):
    """The brokers refuse a record of this size."""


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """What may be under way at once, and how long the brokers have. Bytes count values only."""

    records: int = 4096
    bytes: int = 64 * 1024 * 1024
    confirm_within_s: float = 4.0


@dataclass(slots=True)
class _Waiting:
    """A record under way: who waits for it, how many bytes it holds, and since when (of `perf_counter`)."""

    future: asyncio.Future[None]
    size: int
    since: float


class Publisher:
    """Writes records to one topic. Belongs to the event loop that starts it; not for use from other threads."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        metrics: GatewayMetrics,
        *,
        bounds: PublishLimits | None = None,
        overrides: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """`overrides` are librdkafka properties that replace ours (TLS, SASL; tests use them too)."""
        self._bounds = bounds or PublishLimits()
        self._topic = topic
        self._metrics = metrics
        self._config = ProducerConfig(
            bootstrap=bootstrap,
            max_records=self._bounds.records,
            # librdkafka looks for expired records once a second, hence the margin below the waiters' own deadline.
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
        """Records handed over and not yet settled."""
        return len(self._waiting)

    async def start(self) -> None:
        """Create the producer; it connects by itself, now or whenever the brokers come up."""
        self._loop = asyncio.get_running_loop()
        self._open_line()
        self._sweep(self._loop)

    async def publish(self, key: bytes, value: bytes, headers: Headers) -> None:
        """Return when all in-sync replicas have the record. Raises NotStored or RecordTooLarge."""
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
            raise _fact(error.args[0]) from None
        # The slot is freed by the delivery report, not by the caller's patience: it is what memory really holds.
        self._waiting[id(waiting)] = waiting
        self._waiting_bytes += waiting.size
        await waiting.future

    async def unready_reason(self) -> str | None:
        """Why records cannot be stored now, or None when the brokers answer and know the topic."""
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
        """What nothing but a restart would mend, or None. Kafka being down is no such thing: its records are given up.

        May be asked from any thread.
        """
        if self._line is not None and not self._line.is_alive:
            return "delivery reports are no longer read"
        # librdkafka reports on each record within its own deadline, delivered or not.
        oldest = next(iter(list(self._waiting.values())), None)
        if oldest is not None and (waited := time.perf_counter() - oldest.since) > STUCK_AFTER_S:
            return f"the Kafka producer has not reported on a record for {waited:.0f} s"
        return None

    async def close(self, within_s: float = 5.0) -> int:
        """Let what is under way settle, then stop. Returns how many records were given up (never answered 200)."""
        self._closing = True
        if self._line is not None:
            deadline = time.monotonic() + within_s
            while self._waiting and time.monotonic() < deadline:
                futures = [w.future for w in self._waiting.values() if not w.future.done()]
                left = max(deadline - time.monotonic(), 0.01)
                if futures:
                    await asyncio.wait(futures, timeout=left, return_when=asyncio.ALL_COMPLETED)
                else:  # their callers gave up already; the reports are still to come
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
            return  # a replaced producer's last words: its records have been given up
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
                waiting.future.set_exception(_fact(error))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those who wait longer than the deadline. They stand in the order in which they came."""
        latest = time.perf_counter() - self._bounds.confirm_within_s
        for waiting in self._waiting.values():
            if waiting.since > latest:
                break
            if not waiting.future.done():
                reason = f"no confirmation within {self._bounds.confirm_within_s:g} s"
                waiting.future.set_exception(Unconfirmed(reason))
        self._sweep_timer = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)

    def _replace(self, line: ProducerLine[_Waiting], reason: str) -> None:
        """A fatal error ends an idempotent producer. All it held is given up before its successor takes anything,
        so among the records that are answered 200 the order of a key still holds."""
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


def _fact(error: KafkaError) -> NotStored | RecordTooLarge:
    # The code's name only: librdkafka's text names brokers.
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLarge("the record is larger than the topic takes")
    return Unconfirmed(f"Kafka did not take the record: {error.name()}")
