"""A consumer of one's own, in plain confluent-kafka: prints each paid invoice, once it is sure to be printed.

    BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 python consumer.py

What it may rely on is docs/contract/: keys, headers, and Stripe's envelope as the value. Its group is its own, so it
moves nobody else. Kafka delivers at least once: an event may come again after a crash or a replay, so whoever acts on
one remembers `event_id`. Here that is a set of the last few; a database's unique key is better.
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
        "enable.auto.commit": False,  # committed below, when the work is done
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
        if headers["type"] == "invoice.paid" and headers["event_id"] not in seen:  # decoded only if it is wanted
            invoice = json.loads(message.value())["data"]["object"]
            paid = f"{invoice['amount_paid']} {invoice['currency']}"  # minor units
            print(headers["event_id"], invoice["customer"], paid, flush=True)
            seen[headers["event_id"]] = None
            if len(seen) > KEPT_IDS:
                seen.popitem(last=False)
        consumer.commit(message, asynchronous=True)
finally:
    consumer.close()
