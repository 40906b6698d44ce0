"""Appends records that do not come from Stripe's webhook (replay, reconcile, timers) to `billing.events`, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from confluent_kafka import KafkaException, Message, Producer

from eventlog.entry import Entry
from schemas.errors import LogUnavailable
from schemas.record import MAX_RECORD_BYTES

_DELIVERY_TIMEOUT_S = 10


class EventAppender:
    """Appends to one topic and waits for the brokers' confirmation. Not for concurrent use."""

    def __init__(self, bootstrap: str, topic: str, *, client_id: str) -> None:
        self._topic = topic
        self._properties = {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "acks": "all",
            "enable.idempotence": True,
            # As in Java and aiokafka. librdkafka's default would put a customer on another partition.
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "message.max.bytes": MAX_RECORD_BYTES,
            "delivery.timeout.ms": _DELIVERY_TIMEOUT_S * 1000,
            "linger.ms": 5,
            "reconnect.backoff.max.ms": 500,  # the default of 10 s would delay the reconnect after a short outage
            "log.connection.close": False,
        }
        self._producer = self._new_producer()

    async def append(self, entries: Sequence[Entry]) -> None:
        """Returns after all in-sync replicas have all entries. Entries with the same key keep their order.

        Raises LogUnavailable if an entry is not confirmed within ten seconds. Entries may still be stored later.
        The caller may append all of them again: the ledger drops an event that it already has.
        """
        await asyncio.to_thread(self._append, entries)

    def _append(self, entries: Sequence[Entry]) -> None:
        stored = 0
        last_error = ""

        def report(error: object, _message: Message) -> None:
            nonlocal stored, last_error
            if error is None:
                stored += 1
            else:
                last_error = str(error)

        with contextlib.ExitStack() as unless_stored:
            unless_stored.callback(self._replace_producer)
            try:
                for entry in entries:
                    self._producer.produce(
                        self._topic, key=entry.key, value=entry.value, headers=list(entry.headers), on_delivery=report
                    )
                self._producer.flush(_DELIVERY_TIMEOUT_S + 1)
            except (KafkaException, BufferError) as error:
                raise LogUnavailable(f"{self._topic} did not take {len(entries)} records: {error}") from error
            if stored < len(entries):
                reason = last_error or "no answer"
                raise LogUnavailable(f"{self._topic} did not take {len(entries) - stored} records: {reason}")
            unless_stored.pop_all()

    def close(self) -> None:
        """Drops the records still queued; no caller waits for them."""
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _replace_producer(self) -> None:
        """Replaces the producer after a failure: queued records must not be stored late, and a fatal error ends it."""
        self.close()
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return Producer(dict(self._properties), logger=logging.getLogger("librdkafka"))
