"""The load of the benchmarks: a mixed stream of Stripe events of realistic size, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from eventlog import client
from local.stripe.builder import StripeEvents
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import Settings

DUPLICATES = 0.1
CUSTOMERS = 5_000
_REMEMBERED = 5_000
"""A duplicate repeats one of this many latest events."""
_STARTED_AT = 1_760_000_000

Json = dict[str, Any]


@dataclass(slots=True)
class Load:
    """Events of `customers` customers. Each starts with a new customer and a new subscription; the mix follows.

    One event in ten repeats an earlier one. Bodies are 2 to 3 kB.
    """

    events: int
    customers: int = CUSTOMERS
    seed: int = 1
    prefix: str = ""
    """Part of each id, so that ids differ from those of another load."""
    distinct: int = 0
    """How many different event ids have been generated so far."""
    bytes: int = 0
    _begun: set[str] = field(default_factory=set)
    _unpaid: dict[str, str] = field(default_factory=dict)
    """The invoice with the latest failed payment, by customer. It is the next one to be paid, so that the number of
    open invoices per customer stays realistic however long the load is."""

    def bodies(self) -> Iterator[Json]:
        """Yield the events in an order in which Stripe might send them."""
        chance = random.Random(self.seed)
        sent: list[Json] = []
        count = 0
        while count < self.events:
            if sent and chance.random() < DUPLICATES:
                fresh = [chance.choice(sent)]
            else:
                fresh = self._next(chance, count)[: self.events - count]
                self.distinct += len(fresh)
                sent.extend(fresh)
                del sent[:-_REMEMBERED]
            count += len(fresh)
            yield from fresh

    def _next(self, chance: random.Random, number: int) -> list[Json]:
        at = _STARTED_AT + number // 10
        own = f"{self.prefix}{chance.randrange(self.customers)}"
        customer, subscription = f"cus_{own}", f"sub_{own}"
        make = StripeEvents()
        filling: Json = {"metadata": {"reference": chance.randbytes(chance.randint(500, 900)).hex()}}

        def event(type_: str, obj: Json, nth: int = 0, **more: Any) -> Json:
            return make.event(type_, obj | filling, at, id_=f"evt_{self.prefix}{number}_{nth}", **more)

        if own not in self._begun:
            self._begun.add(own)
            return [
                event("customer.created", make.customer(customer, email=f"{own}@example.com", created=at)),
                event("customer.subscription.created", make.subscription(subscription, customer=customer, start=at), 1),
            ]
        invoice = f"in_{self.prefix}{number}"
        kind = chance.random()
        if kind < 0.15:
            former = {"email": "former@example.com"}
            obj = make.customer(customer, email=f"{own}@example.com", created=at)
            return [event("customer.updated", obj, previous=former)]
        if kind < 0.55:
            obj = make.subscription(subscription, customer=customer, start=at, created=_STARTED_AT)
            return [event("customer.subscription.updated", obj)]
        if kind < 0.8:
            invoice = self._unpaid.pop(own, invoice)
            paid = make.invoice(invoice, customer=customer, subscription=subscription, status="paid", created=at)
            return [event("invoice.paid", paid)]
        if kind < 0.9:
            invoice = self._unpaid.setdefault(own, invoice)
            due = make.invoice(
                invoice, customer=customer, subscription=subscription, created=at, next_attempt=at + 86_400
            )
            return [event("invoice.payment_failed", due)]
        return [event("product.updated", {"id": "prod_1", "object": "product", "description": "x" * 600})]


def record(event: Json, received_at: datetime) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    """Return key, value and headers as the gateway writes them."""
    headers = RecordHeaders(
        event_id=event["id"],
        type=event["type"],
        source=Source.STRIPE,
        account="",
        livemode=False,
        api_version=event["api_version"],
        endpoint="default",
        received_at=received_at,
    )
    return ordering_key(event), orjson.dumps(event), list(headers.encode())


def produce(settings: Settings, load: Load) -> None:
    """Write the whole load to the events topic."""
    producer = client.producer(
        settings.kafka,
        client_id="billing-bench",
        properties={"linger.ms": 20, "queue.buffering.max.messages": 200_000, "delivery.timeout.ms": 300_000},
    )
    received_at = datetime.now(UTC)
    for event in load.bodies():
        key, value, headers = record(event, received_at)
        load.bytes += len(value)
        while True:
            try:
                producer.produce(settings.events_topic, key=key, value=value, headers=dict(headers))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not accept the load within two minutes")
