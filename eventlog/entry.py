"""A record to append to the log, and the headers of a record read from it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from confluent_kafka import Message

from schemas.ordering import ordering_key
from schemas.record import Headers, RecordHeaders, Source

_HEADERS = operator.methodcaller("headers")
"""Calls `message.headers()` with the check of its result, which Python leaves out of calls that it has specialized.
Then confluent_kafka would return an incomplete list, and its error would be raised by whatever comes next."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append to the log. The format is in schemas/record.py."""

    key: bytes | None
    value: bytes
    headers: Headers

    @classmethod
    def of(
        cls,
        event: Mapping[str, Any],
        body: bytes | None = None,
        *,
        source: Source,
        received_at: datetime,
        livemode: bool,
        account: str = "",
        api_version: object = None,
        endpoint: str = "",
    ) -> Entry:
        """Returns the record of an event, with the key of its customer's events.

        `body` is the exact bytes to store, by default the event as JSON. An `api_version` that is not text becomes
        empty, as in a webhook.
        """
        headers = RecordHeaders(
            event_id=event["id"],
            type=event["type"],
            source=source,
            account=account,
            livemode=livemode,
            api_version=api_version if isinstance(api_version, str) else "",
            endpoint=endpoint,
            received_at=received_at,
        )
        value = orjson.dumps(event) if body is None else body
        return cls(ordering_key(event).encode(), value, headers.encode())


def headers_of(message: Message) -> Headers:
    """Returns the headers of a record unchanged; a missing value becomes empty bytes.

    () if a name is not UTF-8, as some clients write it: confluent_kafka then fails for all of them.
    """
    try:
        pairs = _HEADERS(message) or []
    except (SystemError, UnicodeDecodeError):  # a SystemError whose cause is the other one
        message.set_headers([])  # it keeps an incomplete list, and a second call would return that and end the process
        return ()
    listed = pairs.items() if isinstance(pairs, dict) else pairs
    return tuple((name, value.encode() if isinstance(value, str) else value or b"") for name, value in listed)
