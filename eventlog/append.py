"""Appends records that do not come from Stripe's webhook (replay, reconcile, timers) to `billing.events`, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, Message, Producer

from eventlog import client
from eventlog.entry import Entry
from eventlog.threads import in_thread
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess, Property
from schemas.record import writable

_DELIVERY_TIMEOUT_S = client.TIMEOUT_S


class EventAppender:
    """Appends to one topic and waits for the brokers' confirmation. Not for concurrent use."""

    def __init__(self, access: KafkaAccess, topic: str, *, client_id: str) -> None:
        self._access = access
        self._topic = topic
        self._client_id = client_id
        self._producer = self._new_producer()

    async def append(self, entries: Sequence[Entry], stored: Callable[[], None] = lambda: None) -> None:
        """Returns after all in-sync replicas have all entries. Entries with the same key keep their order.

        `stored` is called then, from a thread. A task that is cancelled meanwhile does not learn it
        otherwise.

        Raises LogUnavailable if an entry is not confirmed within ten seconds. Entries may still be stored later.
        The caller may append all of them again: the ledger drops an event that it already has.
        """
        await in_thread(self._append_and_note, entries, stored)

    def _append_and_note(self, entries: Sequence[Entry], stored: Callable[[], None]) -> None:
        self._append(entries)
        stored()

    def _append(self, entries: Sequence[Entry]) -> None:
        stored = 0
        last_error: KafkaError | str = "no answer"

        def report(error: KafkaError | None, _message: Message) -> None:
            nonlocal stored, last_error
            if error is None:
                stored += 1
            else:
                last_error = error

        with contextlib.ExitStack() as unless_stored:
            unless_stored.callback(self._replace_producer)
            with client.log_errors(self._access, f"{self._topic} did not take {len(entries)} records"):
                for entry in entries:
                    self._producer.produce(
                        self._topic,
                        key=entry.key,
                        value=entry.value,
                        headers=list(writable(entry.headers)),
                        on_delivery=report,
                    )
                self._producer.flush(_DELIVERY_TIMEOUT_S + 1)
            if stored < len(entries):
                reason = client.cause_of(self._access, last_error)
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
        properties: dict[str, Property] = {"delivery.timeout.ms": int(_DELIVERY_TIMEOUT_S * 1000)}
        return client.producer(self._access, client_id=self._client_id, properties=properties)
