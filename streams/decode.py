"""Decodes a record's bytes to an event and finds its rule: the first step of `process`, and the first that can fail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from schemas.errors import MalformedEvent, WrongMode
from schemas.event import Event
from schemas.fast_row import replace, value
from schemas.ordering import account_of, customer_id_of, guest_keys, named_ids
from schemas.plugin import PluginRule
from schemas.settings import Mode
from schemas.storable import MAX_ID_BYTES, bounded, bounded_or_none, is_storable
from streams.rules.registry import Rule

_OLDEST, _NEWEST = 0, 4_102_444_800  # 1970 and 2100: a `created` outside this range is invalid


@value(frozen=True, slots=True, kw_only=True)
class EventSummary:
    """The ledger's columns for any event, with or without a rule. `created` is in UTC.

    Every text can be stored: a value that is not printable or has over 255 bytes is replaced by its digest.
    """

    id: str
    type: str
    account: str
    livemode: bool
    created: datetime | None
    api_version: str | None
    customer_id: str | None
    named: tuple[str, ...] = ()
    """If it names no customer: the ids in its object by which a stored payment or card is found."""
    guests: tuple[str, ...] = ()
    """If it names no customer: the digests of the addresses in its object."""


@value(frozen=True, slots=True)
class Decoded:
    """A decoded record. `event` and `rule` are None if no rule handles the type."""

    envelope: EventSummary
    event: Event[Any] | None
    rule: Rule | None
    more: tuple[tuple[PluginRule, Event[Any]], ...] = ()
    """The rules of plugins for the type, each with the event as its model reads it."""


def decode(value: bytes | None, rules: Mapping[str, Rule]) -> Decoded:
    """Parses the bytes as an event and its object as the rule's model. Raises MalformedEvent."""
    raw = _parse(value)
    if value is not None and not has_no_nul(value) and _contains_nul(raw):
        raise MalformedEvent("contains U+0000, which Postgres cannot store in text")
    account, customer_id = account_of(raw), customer_id_of(raw)
    envelope = _envelope(raw, account, customer_id)
    _check_ids(raw, envelope, account, customer_id)
    rule = rules.get(envelope.type) if raw.get("object") == "event" else None
    if rule is None:
        return Decoded(envelope, None, None)
    event = _event(raw, envelope, rule)
    if not rule.more:
        return Decoded(envelope, event, rule)
    objects = raw["data"]["object"]
    more = tuple((one, replace(event, object=_validated(one.model, objects))) for one in rule.more)
    return Decoded(envelope, event, rule, more)


def check_mode(decoded: Decoded, mode: Mode) -> None:
    """Raises WrongMode if the event belongs to the other mode, whatever appended it: the gateway, a replay, a timer."""
    if decoded.envelope.livemode is not mode.livemode:
        other = Mode.LIVE if decoded.envelope.livemode else Mode.TEST
        raise WrongMode(f"the event is in {other} mode, this system serves {mode} mode (`mode` in BILLING_CONFIG)")


def describe(value: bytes | None) -> EventSummary | None:
    """Returns the summary of a record that `decode` rejects; None if it has no id or type. Never raises."""
    try:
        raw = _parse(value)
        return _envelope(raw, account_of(raw), customer_id_of(raw))
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


def has_no_nul(value: bytes) -> bool:
    """Whether the JSON cannot contain U+0000. False means that it may."""
    return b"\\" not in value or b"\\u0000" not in value  # a single byte is found six times as fast


def _contains_nul(value: object) -> bool:
    left = [value]  # not recursive: orjson accepts 1,024 levels, Python's stack about as many
    while left:
        match left.pop():
            case str() as text if "\0" in text:
                return True
            case dict() as members:
                left += [*members.keys(), *members.values()]
            case list() as members:
                left += members
    return False


def _envelope(raw: dict[str, Any], account: str | None, customer_id: str | None) -> EventSummary:
    event_id, type_ = raw.get("id"), raw.get("type")
    if not (isinstance(event_id, str) and event_id):
        raise MalformedEvent("id: not a string")
    if not (isinstance(type_, str) and type_):
        raise MalformedEvent("type: not a string")
    api_version = raw.get("api_version")
    return EventSummary(
        id=bounded(event_id),
        type=bounded(type_),
        account=bounded(account or ""),
        livemode=raw.get("livemode") in (True, "true"),  # old Connect samples contain the string
        created=_time(raw.get("created")),
        api_version=api_version if isinstance(api_version, str) and is_storable(api_version) else None,
        customer_id=bounded_or_none(customer_id),
        named=named_ids(raw) if customer_id is None else (),
        guests=guest_keys(raw) if customer_id is None else (),
    )


def _check_ids(raw: dict[str, Any], envelope: EventSummary, account: str | None, customer_id: str | None) -> None:
    """Raises MalformedEvent for an id that only its digest could represent: rules would mix it up with the digest."""
    for name, text, kept in (
        ("id", raw["id"], envelope.id),
        ("type", raw["type"], envelope.type),
        ("account", account or "", envelope.account),
        ("customer", customer_id, envelope.customer_id),
    ):
        if text != kept:
            raise MalformedEvent(f"{name}: not printable, or over {MAX_ID_BYTES} bytes")


def _time(created: object) -> datetime | None:
    """Parses epoch seconds (a number, or digits in old samples) or a thin event's ISO 8601. Returns None if invalid."""
    if isinstance(created, str) and created.isdecimal() and len(created) <= len(str(_NEWEST)):
        created = int(created)
    if isinstance(created, int) and not isinstance(created, bool) and _OLDEST <= created <= _NEWEST:
        return datetime.fromtimestamp(created, UTC)
    if isinstance(created, str):
        try:
            moment = datetime.fromisoformat(created)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 0001-01-01 in a zone ahead of UTC is before the first year
            return None
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
