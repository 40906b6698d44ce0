"""Checks that the verified body is an event, and reads the fields for the record's headers and key.

The second step of the gateway, after the signature. The bytes themselves are not changed. Behaviours A2, A4, A5.
"""

from __future__ import annotations

import re

import orjson

from schemas.errors import BillingError
from schemas.fast_row import value
from schemas.ordering import ordering_key

SNAPSHOT = "event"
THIN = "v2.core.event"

LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z, the latest second of a `datetime`. A timestamptz can store it too."""

# Ids go into headers, logs, URLs and text columns, so they must be printable ASCII without blanks, as Stripe's are.
_CLEAN = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class NotAnEvent(BillingError):
    """The body is not a Stripe event. The message gives the reason without quoting the body."""


@value(frozen=True, slots=True)
class Envelope:
    """The fields of an event that the gateway uses. An empty string means none, as in the record's headers."""

    event_id: str
    type: str
    account: str
    livemode: bool
    api_version: str
    key: str


def read_event(body: bytes) -> Envelope:
    """Returns the envelope of a snapshot or thin event. Raises only NotAnEvent.

    If a name occurs twice, the last one counts, as in every later reader (orjson, jsonb).
    """
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson also rejects invalid UTF-8, NaN, lone surrogates, and more than 1024 levels of nesting.
        raise NotAnEvent("the body is not JSON") from None
    if not isinstance(event, dict):
        raise NotAnEvent("the body is not a JSON object")
    kind = event.get("object")
    if kind not in (SNAPSHOT, THIN):
        raise NotAnEvent("`object` is neither event nor v2.core.event")
    account_field = "account" if kind == SNAPSHOT else "context"
    envelope = Envelope(
        event_id=_clean(event, "id"),
        type=_clean(event, "type"),
        account=_clean(event, account_field) if event.get(account_field) is not None else "",
        livemode=_livemode(event.get("livemode")),
        api_version=_api_version(event.get("api_version")),
        key=ordering_key(event),
    )
    if kind == SNAPSHOT:
        _check_created(event.get("created"))
        data = event.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
            raise NotAnEvent("`data.object` is not an object")
    return envelope


def _clean(event: dict[str, object], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not _CLEAN.fullmatch(value):
        raise NotAnEvent(f"`{name}` is not a plain string of 1 to 255 characters")
    return value


def _api_version(value: object) -> str:
    # It only describes the event and is null in some real ones, so an unusual value is dropped and the event accepted.
    return value if isinstance(value, str) and _CLEAN.fullmatch(value) else ""


def _livemode(value: object) -> bool:
    """Accepts a boolean, or the texts `"true"` and `"false"`: recorded events that went through a form have them."""
    match value:
        case bool():
            return value
        case "true":
            return True
        case "false":
            return False
        case _:
            raise NotAnEvent("`livemode` is not a boolean")


def _check_created(value: object) -> None:
    """Raises NotAnEvent unless `created` is unix seconds: a number, or its digits as in those recorded events."""
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_SECOND:
        raise NotAnEvent("`created` is not a time in unix seconds")
