"""The body and the headers of a notification, signed by the Standard Webhooks scheme.

https://www.standardwebhooks.com
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import orjson
from standardwebhooks.webhooks import Webhook

from sinks.feed.notifications import QueuedNotification


def body_of(row: QueuedNotification) -> bytes:
    """Returns the JSON of schemas/feed_message.py: the same bytes in each try."""
    return orjson.dumps(
        {
            "type": row.type,
            "timestamp": row.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "data": {
                "account": row.account,
                "customer_id": row.customer_id,
                "event_id": row.event_id,
                "livemode": row.livemode,
                "version": row.version,
                **row.data,
            },
        },
        option=orjson.OPT_SORT_KEYS,
    )


def headers_of(message_id: str, body: bytes, secrets: Iterable[str], now: datetime) -> dict[str, str]:
    """Returns the headers of one try. It has one signature for each secret, so that a receiver can rotate its own.

    `now` is the UTC time of the try: receivers refuse a signature that is older than a few minutes.
    """
    text = body.decode()
    signatures = [Webhook(secret).sign(message_id, now, text) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "billing-stream",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
