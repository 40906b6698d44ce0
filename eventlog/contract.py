"""Generates the contract for consumers of the log (docs/contract/): JSON Schemas of headers, events and dead letters.

The schemas come from the types that write the records, so they match them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_type_hints

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.dead_letter import PREFIX, DeadLetter
from schemas.errors import BillingError
from schemas.feed_message import ChangeMessage
from schemas.record import RecordHeaders, Source
from schemas.timer import TimerDue, timer_event_type
from schemas.trace_context import TRACEPARENT

CONTRACT_VERSION = "1.3.0"
"""Major: something was removed or changed. Minor: something was added. See docs/contract/README.md."""

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Open(BaseModel):
    """Stripe adds fields at any time."""

    model_config = ConfigDict(extra="allow")


class EventData(_Open):
    """`object` is as Stripe's API version of the event has it."""

    object: dict[str, Any]
    previous_attributes: dict[str, Any] | None = None


class SnapshotEvent(_Open):
    """Stripe's envelope, in the exact bytes that Stripe sent: https://docs.stripe.com/api/events/object"""

    id: str = Field(min_length=1)
    object: Literal["event"]
    type: str = Field(min_length=1)
    created: int
    """Seconds since the epoch. Events do not arrive in its order."""
    livemode: bool
    api_version: str | None = None
    account: str | None = None
    data: EventData


class RelatedObject(_Open):
    id: str
    type: str
    url: str | None = None


class ThinEvent(_Open):
    """A thin event names its object and does not carry it: https://docs.stripe.com/api/v2/core/events/object"""

    id: str = Field(min_length=1)
    object: Literal["v2.core.event"]
    type: str = Field(min_length=1)
    created: AwareDatetime
    livemode: bool | None = None
    context: str | None = None
    related_object: RelatedObject | None = None


def schemas() -> dict[str, Schema]:
    """Returns all schemas by name. Each is self-contained."""
    return {
        "record-headers": _headers(
            "Headers of billing.events", RecordHeaders, _names(_sample_headers().encode()), optional=(TRACEPARENT,)
        ),
        "snapshot-event": _of_model(SnapshotEvent),
        "thin-event": _of_model(ThinEvent),
        "timer-event": _timer_event(),
        "change": _of_model(ChangeMessage),
        "dead-letter-headers": _headers(
            "Headers that a dead letter has besides its original ones",
            DeadLetter,
            _names(sample_letter().encode_headers()),
            prefix=PREFIX,
            renamed={"group": "consumer_group"},
        ),
    }


def breaking_changes(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[str]:
    """Returns one line per change that breaks a reader of `old`. Additions break no reader."""
    found: list[str] = []
    for name, schema in old.items():
        if name in new:
            found += _broken(name, schema, new[name], schema, new[name])
        else:
            found.append(f"{name}: removed")
    return found


def sample_letter() -> DeadLetter:
    """Returns an empty dead letter, from which the names of the headers are read."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return DeadLetter(
        key=None, value=None, headers=(), event_id="", type="", stream="", account="", customer_id=None,
        error_class="", message="", traceback="", stage="", attempts=1, consumer_group="", topic="", partition=0,
        offset=0, first_failed_at=moment, last_failed_at=moment, code_version="",
    )  # fmt: skip


def _sample_headers() -> RecordHeaders:
    return RecordHeaders("", "", Source.STRIPE, "", False, "", "", datetime(2026, 1, 1, tzinfo=UTC))


def _names(headers: Iterable[tuple[str, bytes]]) -> list[str]:
    return [name for name, _ in headers]


def _headers(
    title: str,
    kind: type[Any],
    names: Iterable[str],
    *,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
    optional: Iterable[str] = (),
) -> Schema:
    """Headers are bytes: UTF-8 text, empty if there is no value. `optional` ones may be absent."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    properties = {}
    required = [*names]
    for name in (*required, *optional):
        own = name.removeprefix(prefix)
        field = (renamed or {}).get(own, own)
        if field not in known:
            raise LookupError(f"header {name} is not a field of {kind.__name__}")
        properties[name] = _as_text(hints[field], name)
    return {"$schema": _DIALECT, "title": title, "type": "object", "properties": properties, "required": required}


def _as_text(hint: Any, name: str) -> Schema:
    if hint is bool:
        return {"type": "string", "enum": ["true", "false"]}
    if hint is int:
        return {"type": "string", "pattern": "^[0-9]+$"}
    if hint is datetime or name.endswith("_at"):
        return {"type": "string", "format": "date-time"}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"type": "string", "enum": [str(member) for member in hint]}
    return {"type": "string"}


def _of_model(model: type[BaseModel]) -> Schema:
    return {"$schema": _DIALECT, **model.model_json_schema()}


def _timer_event() -> Schema:
    """A timer event as schemas/timer.py writes it: a snapshot event with the timer as its object, times in seconds."""
    due = TimerDue.model_json_schema(by_alias=True)
    due["properties"] = {**due["properties"], "object": {"const": "timer"}, "due_at": {"type": "integer"}}
    due["required"] = sorted({*due["required"], "object", "customer", "data"})
    schema = _of_model(SnapshotEvent)
    properties = {
        **schema["properties"],
        "type": {"type": "string", "pattern": f"^{timer_event_type('').replace('.', '[.]')}"},
        "data": {"type": "object", "properties": {"object": due}, "required": ["object"]},
    }
    return {
        **schema,
        "title": "TimerEvent",
        "description": "A timer of this system that is due.",
        "properties": properties,
    }


def _broken(at: str, old: Schema, new: Schema, old_root: Schema, new_root: Schema) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    found = [
        f"{at}: {keyword} was {old.get(keyword)!r}, is {new.get(keyword)!r}"
        for keyword in ("type", "const", "format", "pattern")
        if old.get(keyword) is not None and old.get(keyword) != new.get(keyword)
    ]
    optional = set(old.get("required", ())) - set(new.get("required", ()))
    found += [f"{at}.{name}: no longer required" for name in sorted(optional) if name in new.get("properties", {})]
    for name, schema in old.get("properties", {}).items():
        if name in new.get("properties", {}):
            found += _broken(f"{at}.{name}", schema, new["properties"][name], old_root, new_root)
        else:
            found.append(f"{at}.{name}: removed")
    if _alternatives(old) and _alternatives(old) != _alternatives(new):
        found.append(f"{at}: was one of {_alternatives(old)}, is one of {_alternatives(new) or [new.get('type')]}")
    return found


def _alternatives(schema: Schema) -> list[str]:
    return sorted(str(one.get("type") or one.get("$ref")) for one in schema.get("anyOf", ()))


def _resolved(schema: Schema, root: Schema) -> Schema:
    ref = schema.get("$ref")
    return root["$defs"][ref.rpartition("/")[2]] if isinstance(ref, str) else schema


_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


Files = dict[str, bytes]


class ContractBroken(BillingError):
    """The types break a released version of the contract; the message names the places."""


def checked(folder: Path, current: Mapping[str, Schema], version: str) -> Files:
    """Returns the files of this version by name. Raises ContractBroken."""
    released = {path.stem: orjson.loads(path.read_bytes()) for path in sorted((folder / "released").glob("*.json"))}
    same = released.get(version)
    if same is not None and same != orjson.loads(orjson.dumps(current)):
        broken = breaking_changes(same, current)
        what = f"a new major version: {'; '.join(broken)}" if broken else "a new minor version: something was added"
        raise ContractBroken(f"the types differ from the released version {version}; CONTRACT_VERSION needs {what}")
    for earlier, promised in released.items():
        is_same_major = earlier.partition(".")[0] == version.partition(".")[0]
        if is_same_major and (broken := breaking_changes(promised, current)):
            raise ContractBroken(f"the contract of version {earlier} is broken: {'; '.join(broken)}")
    return {
        "asyncapi.json": orjson.dumps(asyncapi(version), option=_OPTIONS),
        f"released/{version}.json": orjson.dumps(current, option=_OPTIONS),
        **{f"{name}.schema.json": orjson.dumps(schema, option=_OPTIONS) for name, schema in current.items()},
    }


def asyncapi(version: str) -> dict[str, Any]:
    """Returns the AsyncAPI 3 document. It refers to the schema files in the same folder."""

    def message(title: str, headers: object, payload: object) -> dict[str, Any]:
        return {
            "title": title,
            "headers": headers,
            "payload": payload,
            "bindings": {"kafka": {"key": {"type": "string", "description": "What is kept in order: the customer."}}},
        }

    def schema(name: str) -> dict[str, str]:
        return {"$ref": f"./{name}.schema.json"}

    def channel(address: str, description: str, *messages: str) -> dict[str, Any]:
        return {
            "address": address,
            "description": description,
            "parameters": {"prefix": {"description": "BILLING_TOPIC_PREFIX", "default": "billing"}},
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        }

    events = ("snapshotEvent", "thinEvent", "timerEvent")
    headers = schema("record-headers")
    either = {"oneOf": [schema("snapshot-event"), schema("thin-event"), schema("timer-event")]}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "billing-stream",
            "version": version,
            "description": "Every event that can change a customer's billing, in one log. See README.md beside this.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": channel("{prefix}.events", "All events, keyed by customer, delivered at least once.", *events),
            "dead": channel("{prefix}.dead", "What could not be applied: key, value, headers as they were, and why.",
                            "deadLetter"),
            "changes": channel("{prefix}.changes", "Changes of access, subscriptions and payments, keyed by customer.",
                               "change"),
        },
        "operations": {
            "sendEvents": {"action": "send", "channel": {"$ref": "#/channels/events"}},
            "sendDeadLetters": {"action": "send", "channel": {"$ref": "#/channels/dead"}},
            "sendChanges": {"action": "send", "channel": {"$ref": "#/channels/changes"}},
        },
        "components": {
            "messages": {
                "snapshotEvent": message("An event of Stripe's", headers, schema("snapshot-event")),
                "thinEvent": message("A thin event of Stripe's", headers, schema("thin-event")),
                "timerEvent": message("A timer that is due: source=timer", headers, schema("timer-event")),
                "deadLetter": message("An event that could not be applied",
                                      {"allOf": [headers, schema("dead-letter-headers")]}, either),
                "change": message("A change, also the body of a notification", {"type": "object"}, schema("change")),
            }
        },
    }  # fmt: skip


def has_content(path: Path, text: bytes) -> bool:
    """Whether the file is there and holds exactly these bytes."""
    return path.is_file() and path.read_bytes() == text
