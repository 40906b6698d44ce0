"""Masks personal data in what a page shows, in HTML and JSON alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from console.reads import PanelFailure

HIDDEN = "•••"

PERSONAL = frozenset(
    {"email", "recipient", "phone", "address", "ip", "customer_name", "customer_email", "organization_name", "last4"}
)
"""Keys whose values are a person's."""

CONTENTS = frozenset({"payload", "raw", "data", "params", "traceback"})
"""Keys whose values are contents of events, mails and calls; a traceback quotes them. They are hidden as a whole."""

_OF_A_PERSON = frozenset({"customer_id", "user_id", "organization_id", "email"})
"""A dict with one of these keys is about a person, so its `name` is one."""

_TABLES_OF_PEOPLE = frozenset({"customers", "users", "organizations", "payment_methods"})
"""Tables whose changes contain personal data (`events.changes`)."""

_ADDRESS = re.compile(r"[^\s@<>\"'(),;:=]+@[^\s@<>\"'(),;:=]+")


def masked(value: Any) -> Any:
    """Returns a copy without personal data. Texts lose the e-mail addresses in them; contents become None."""
    if is_dataclass(value) and not isinstance(value, type | PanelFailure):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        is_person = not _OF_A_PERSON.isdisjoint(value)
        if value.get("table") in _TABLES_OF_PEOPLE and isinstance(value.get("fields"), Mapping):
            return {**value, "fields": _without_person(value["fields"])}
        return {
            key: None
            if key in CONTENTS
            else hidden(item)
            if key in PERSONAL or (key == "name" and is_person)
            else item
            if key == "message_id"  # `<digest@our-domain>` looks like an address
            else masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, str) and "@" in value:
        return _ADDRESS.sub(lambda found: _mail(found[0]), value)
    return value


def _without_person(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changed fields of a person's row with all that says who it is masked. `address.city` is one, too."""
    return {
        name: hidden(both) if name.partition(".")[0] in PERSONAL | {"name", "billing_email"} else masked(both)
        for name, both in fields.items()
    }


def hidden(value: Any) -> Any:
    """Returns the value with each text in it masked. The first letter stays, to distinguish two people."""
    if isinstance(value, str):
        return _mail(value) if "@" in value else f"{value[:1]}{HIDDEN}" if value else value
    if isinstance(value, Mapping):
        return {key: hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(item) for item in value]
    return HIDDEN if isinstance(value, int | float) and not isinstance(value, bool) else value


def _mail(address: str) -> str:
    name, _, domain = address.partition("@")
    return f"{name[:1]}{HIDDEN}@{domain[:1]}{HIDDEN}.{domain.rpartition('.')[2]}"
