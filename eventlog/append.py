"""Another way onto `billing.events`: appends what did not come from Stripe's webhook, in order, and waits for Kafka."""

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
    """Appends to one topic. Not for concurrent use."""

    def __init__(self, bootstrap: str, topic: str, *, client_id: str) -> None:
        self._topic = topic
        self._properties = {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "acks": "all",
            "enable.idempotence": True,
            # As Java and aiokafka hash keys; librdkafka's default would put a customer elsewhere.
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "message.max.bytes": MAX_RECORD_BYTES,
            "delivery.timeout.ms": _DELIVERY_TIMEOUT_S * 1000,
            "linger.ms": 5,
            "reconnect.backoff.max.ms": 500,  # the default of 10 s would outlast the outage it waits for
            "log.connection.close": False,
        }
        self._producer = self._new_producer()

    async def append(self, entries: Sequence[Entry]) -> None:
        """Returns when all in-sync replicas have all of them; those of one key stand in the order given.

        Raises LogUnavailable when one is not known to be stored after ten seconds. Others of them may be, and late:
        whoever appends them again relies on the ledger, which knows an event by its id.
        """
        await asyncio.to_thread(self._append, entries)

    def _append(self, entries: Sequence[Entry]) -> None:
        stored = 0
        trouble = ""

        def report(error: object, _message: Message) -> None:
            nonlocal stored, trouble
            if error is None:
                stored += 1
            else:
                trouble = str(error)

        with contextlib.ExitStack() as unless_stored:
            unless_stored.callback(self._start_afresh)
            try:
                for entry in entries:
                    self._producer.produce(
                        self._topic, key=entry.key, value=entry.value, headers=list(entry.headers), on_delivery=report
                    )
                self._producer.flush(_DELIVERY_TIMEOUT_S + 1)
            except (KafkaException, BufferError) as error:
                raise LogUnavailable(f"{self._topic} did not take {len(entries)} records: {error}") from error
            if stored < len(entries):
                reason = trouble or "no answer"
                raise LogUnavailable(f"{self._topic} did not take {len(entries) - stored} records: {reason}")
            unless_stored.pop_all()

    def close(self) -> None:
        """Drops what is still queued: nobody waits for it."""
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _start_afresh(self) -> None:
        """After a failure: what is left in the queue must not come late, and a fatal error ends a producer."""
        self.close()
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return Producer(dict(self._properties), logger=logging.getLogger("librdkafka"))
