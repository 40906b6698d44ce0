"""An example consumer in plain confluent-kafka: prints each paid invoice and then commits its offset.

    BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 python consumer.py

docs/contract/README.md describes what it relies on: keys, headers, and Stripe's envelope as the value. It has its own
group, so it does not affect other consumers. Kafka delivers at least once: an event may come again after a crash or a
replay, so a consumer must remember `event_id`. Here this is a set of the latest ids; a database's unique key is better.
"""

import json
import os
import signal
import sys
from collections import OrderedDict

from confluent_kafka import Consumer

KEPT_IDS = 10_000

consumer = Consumer(
    {
        "bootstrap.servers": os.environ["BILLING_KAFKA_BOOTSTRAP"],
        "group.id": os.environ.get("GROUP", "paid-invoices"),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,  # committed below, after the event is processed
    }
)
topic = os.environ.get("BILLING_TOPIC_PREFIX", "billing") + ".events"
seen: OrderedDict[str, None] = OrderedDict()
running = True


def stop(*_: object) -> None:
    global running
    running = False


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
consumer.subscribe([topic])
try:
    while running:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr)
            continue
        headers = {name: value.decode() for name, value in message.headers() or []}
        if headers["type"] == "invoice.paid" and headers["event_id"] not in seen:  # the value is decoded only for these
            invoice = json.loads(message.value())["data"]["object"]
            paid = f"{invoice['amount_paid']} {invoice['currency']}"  # minor units
            print(headers["event_id"], invoice["customer"], paid, flush=True)
            seen[headers["event_id"]] = None
            if len(seen) > KEPT_IDS:
                seen.popitem(last=False)
        consumer.commit(message, asynchronous=True)
finally:
    consumer.close()
