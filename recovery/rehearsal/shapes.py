"""Compares the structure of two events: which fields only one of them has, and whose kinds of values differ.

A dead event beside the newest applied one of its type and API version often shows the cause at once: a field that has
become an object, or is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 100
_MISSING = "missing"
MOST_FAILING = 10
_NAMED = re.compile(r"(?:^|; )([a-z_]\w*(?:\.\w+)+): ")
_IGNORED = frozenset({"metadata", "previous_attributes"})
"""Objects whose keys people choose, or that name what has changed."""
_OPTIONAL = "previous_attributes"
"""A part that an event has only if something has changed."""


@dataclass(frozen=True, slots=True)
class ShapeDifference:
    """The kinds of values at one place of two events. Entries of lists are one place, `items.data[]`."""

    path: str
    dead: str
    """The kinds of values of the dead event, such as `text` or `object`, or `missing`."""
    good: str


def differences(dead: object, good: object) -> list[ShapeDifference]:
    """Returns the places of two JSON values that differ in structure, in the order of their paths, at most MOST.

    null fits every kind, because Stripe sends it for what is not set. A part that only one of them has is one place.
    """
    one, other = _shape(dead), _shape(good)
    found: list[ShapeDifference] = []
    for path in sorted(one.keys() | other.keys()):
        here, there = one.get(path, frozenset()), other.get(path, frozenset())
        if path.endswith(_OPTIONAL) and not (here and there):
            continue
        if _fits(here, there) or _is_in_an_empty_list(path, one) or _is_in_an_empty_list(path, other):
            continue
        gaps = [part.path for part in found if _MISSING in (part.dead, part.good)]
        if not any(path.startswith((f"{gap}.", f"{gap}[")) for gap in gaps):
            found.append(ShapeDifference(path, _named(here), _named(there)))
    return found[:MOST]


def failing_places(message: str) -> list[str]:
    """Returns the places that an error's message names, in its order, each once, at most MOST_FAILING.

    A message has a part for each place: `items.data.0.price: …; object.status: …`. An index is `[]` in the result.
    """
    places = (re.sub(r"\.\d+(?=\.|$)", "[]", found[1]) for found in _NAMED.finditer(message))
    return list(dict.fromkeys(places))[:MOST_FAILING]


def compared_at(path: str, dead: object, good: object) -> ShapeDifference | None:
    """Returns the kinds of values at a place of both, None if neither has anything there.

    Errors name places of our models, which do not have Stripe's structure everywhere.
    """
    here, there = kind_at(dead, path), kind_at(good, path)
    return None if here == there == _MISSING else ShapeDifference(path, here, there)


def is_same_place(path: str, other: str) -> bool:
    """Whether two paths lead to the same values. The entries of Stripe's lists are `items.data[]` or `items[]`."""
    return path.replace(".data[]", "[]") == other.replace(".data[]", "[]")


def values_at(value: object, path: str) -> list[Any]:
    """Returns what is at a place, such as `items.data[].price`, at most MOST values; [] if nothing is.

    `items[]` are also the entries of Stripe's `{"object": "list", "data": [ … ]}`, which our models have as a list.
    """
    found = [value]
    for part in path.replace("[]", ".[]").split("."):
        if part == "[]":
            found = [inner for one in found for inner in _entries(one)]
        else:
            found = [one[part] for one in found if isinstance(one, Mapping) and part in one]
    return found[:MOST]


def kind_at(value: object, path: str) -> str:
    """Returns the kinds of values at a place, such as `text`, or `missing`."""
    return _named(frozenset(_kind(one) for one in values_at(value, path)))


def _entries(value: object) -> list[Any]:
    if isinstance(value, Mapping) and value.get("object") == "list":
        value = value.get("data")
    return value if isinstance(value, list) else []


def _fits(here: frozenset[str], there: frozenset[str]) -> bool:
    is_open = here == {"null"} or there == {"null"}
    return (is_open and bool(here and there)) or here - {"null"} == there - {"null"}


def _is_in_an_empty_list(path: str, shape: Mapping[str, frozenset[str]]) -> bool:
    entry = path[: path.rfind("[]") + 2]
    return bool(entry) and entry not in shape and "list" in shape.get(entry[:-2], ())


def _named(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds)) if kinds else _MISSING


def _shape(value: object) -> dict[str, frozenset[str]]:
    kinds: dict[str, set[str]] = {}
    for path, kind in _places(value, ""):
        kinds.setdefault(path, set()).add(kind)
    return {path: frozenset(found) for path, found in kinds.items()}


def _places(value: object, path: str) -> Iterator[tuple[str, str]]:
    left: list[tuple[str, Any]] = [(path, value)]  # not recursive: a payload may be a thousand levels deep
    while left:
        at, one = left.pop()
        if at:
            yield at, _kind(one)
        if isinstance(one, Mapping) and at.rpartition(".")[2] not in _IGNORED:
            left += [(f"{at}.{key}" if at else str(key), inner) for key, inner in one.items()]
        elif isinstance(one, list):
            left += [(f"{at}[]", inner) for inner in one]


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case _:
            return "object"
