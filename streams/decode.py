"""Decodes a record's bytes to an event and finds its rule: the first step of `process`, and the first that can fail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from schemas.errors import MalformedEvent
from schemas.event import Event
from schemas.fast_row import value
from schemas.ordering import account_of, customer_id_of
from streams.rules.registry import Rule

_OLDEST, _NEWEST = 0, 4_102_444_800  # 1970 and 2100: a `created` outside this range is invalid


@value(frozen=True, slots=True, kw_only=True)
class EventSummary:
    """The ledger's columns for any event, with or without a rule. `created` is in UTC."""

    id: str
    type: str
    account: str
    livemode: bool
    created: datetime | None
    api_version: str | None
    customer_id: str | None


@value(frozen=True, slots=True)
class Decoded:
    """A decoded record. `event` and `rule` are None if no rule handles the type."""

    envelope: EventSummary
    event: Event[Any] | None
    rule: Rule | None


def decode(value: bytes | None, rules: Mapping[str, Rule]) -> Decoded:
    """Parses the bytes as an event and its object as the rule's model. Raises MalformedEvent."""
    raw = _parse(value)
    if value is not None and not is_storable(value) and _contains_nul(raw):
        raise MalformedEvent("contains U+0000, which Postgres cannot store in text")
    envelope = _envelope(raw)
    rule = rules.get(envelope.type) if raw.get("object") == "event" else None
    if rule is None:
        return Decoded(envelope, None, None)
    return Decoded(envelope, _event(raw, envelope, rule), rule)


def describe(value: bytes | None) -> EventSummary | None:
    """Returns the summary of a record that `decode` rejects; None if its id or type cannot be read."""
    try:
        return _envelope(_parse(value))
    except MalformedEvent:
        return None


def _parse(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise MalformedEvent("the record has no value")
    try:
        raw = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MalformedEvent(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise MalformedEvent(f"not a JSON object but {type(raw).__name__}")
    return raw


def is_storable(value: bytes) -> bool:
    """Whether the JSON cannot contain U+0000. False means that it may."""
    return b"\\u0000" not in value


def _contains_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(_contains_nul, value.keys())) or any(map(_contains_nul, value.values()))
    return isinstance(value, list) and any(map(_contains_nul, value))


def _envelope(raw: dict[str, Any]) -> EventSummary:
    event_id, type_ = raw.get("id"), raw.get("type")
    if not (isinstance(event_id, str) and event_id.isprintable() and event_id):
        raise MalformedEvent("id: not a string of printable characters")
    if not (isinstance(type_, str) and type_.isprintable() and type_):
        raise MalformedEvent("type: not a string of printable characters")
    api_version = raw.get("api_version")
    return EventSummary(
        id=event_id,
        type=type_,
        account=account_of(raw) or "",
        livemode=raw.get("livemode") in (True, "true"),  # old Connect samples contain the string
        created=_time(raw.get("created")),
        api_version=api_version if isinstance(api_version, str) else None,
        customer_id=customer_id_of(raw),
    )


def _time(created: object) -> datetime | None:
    """Parses epoch seconds (a number, or digits in old samples) or a thin event's ISO 8601. Returns None if invalid."""
    if isinstance(created, str) and created.isdecimal() and len(created) <= len(str(_NEWEST)):
        created = int(created)
    if isinstance(created, int) and not isinstance(created, bool) and _OLDEST <= created <= _NEWEST:
        return datetime.fromtimestamp(created, UTC)
    if isinstance(created, str):
        try:
            moment = datetime.fromisoformat(created)
        except ValueError:
            return None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _event(raw: dict[str, Any], envelope: EventSummary, rule: Rule) -> Event[Any]:
    if envelope.created is None:
        raise MalformedEvent(f"created: {raw.get('created')!r:.40} is not a time")
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
        raise MalformedEvent("data.object: not an object")
    previous = data.get("previous_attributes")
    return Event(
        id=envelope.id,
        type=envelope.type,
        created=int(envelope.created.timestamp()),
        livemode=envelope.livemode,
        account=envelope.account,
        customer_id=envelope.customer_id,
        api_version=envelope.api_version,
        previous=previous if isinstance(previous, dict) else {},
        object=_validated(rule.model, data["object"]),
        rank=rule.rank,
        terminal=rule.terminal,
    )


def _validated(model: type[BaseModel], raw_object: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(raw_object)
    except ValidationError as error:
        # Without the input: people who must not see the payload read a dead letter's reason.
        lines = [f"data.object.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise MalformedEvent("; ".join(lines)) from None
