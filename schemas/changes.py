"""What one event changes in the state rows: for each row, the fields that differ, before and after.

The ledger stores it with the event (`events.changes`), so that "what did this event do?" has an answer after later
events have overwritten the rows. Fields that only order events are left out: the event's own row says when it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from schemas.known import Known
from schemas.state import ROW_TYPES, Customer, Dispute, Key, Organization, PaymentMethod, Row, Subscription, Timer, User

Change = dict[str, Any]
"""`table`, `key` (its parts joined by `/`, without an empty account), `did` (created, updated or removed), and
`fields`: name → [before, after]. A field of a JSON object is named `column.field`."""

_BOOKKEEPING: Mapping[type[Any], frozenset[str]] = {
    Customer: frozenset({"linked_since", "newest"}),
    Dispute: frozenset({"newest"}),
    PaymentMethod: frozenset({"newest"}),
    User: frozenset({"address_of", "address_since"}),
    Subscription: frozenset({"newest", "price_changes", "invoices"}),
    Timer: frozenset({"data", "event_id"}),
}
"""Fields with which rules order and remember events. They say nothing about the customer."""
_PERSONAL: Mapping[type[Any], frozenset[str]] = {
    Customer: frozenset({"email", "name", "address"}),
    Organization: frozenset({"billing_email", "name"}),
    User: frozenset({"email"}),
    PaymentMethod: frozenset({"type", "brand", "last4", "exp_month", "exp_year"}),
}
"""Fields with data on a person. An erasure finds the events of its customer only, so another customer's event must not
keep them. A user belongs to several customers, so no event keeps theirs."""
TABLE_NAMES = {
    kind: "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__)[1:] + "s"
    for kind in ROW_TYPES
}


def _is_shown(kind: type[Any], name: str) -> bool:
    is_version = name == "version" or name.endswith("_version")
    return not is_version and name not in _BOOKKEEPING.get(kind, ())


def _is_object(hint: object) -> bool:
    """Whether a column holds JSON objects. A column of a list of them does not."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return any(get_origin(one) is Mapping for one in options)


COLUMNS_SHOWN = {kind: tuple(f.name for f in fields(kind) if _is_shown(kind, f.name)) for kind in ROW_TYPES}
"""The columns of each row that a change shows."""
_SHOWN = {kind: frozenset(names) for kind, names in COLUMNS_SHOWN.items()}
_JSON = {kind: frozenset(name for name, hint in get_type_hints(kind).items() if _is_object(hint)) for kind in ROW_TYPES}
"""The columns that hold JSON objects."""


class Before:
    """Writes rows into `known` and remembers each as it was before its first write."""

    __slots__ = ("_known", "_rows")

    def __init__(self, known: Known) -> None:
        self._known = known
        self._rows: dict[tuple[type[Row], Key], Row | None] = {}

    def save(self, row: Row) -> None:
        self._note(row)
        self._known.save(row)

    def remove(self, row: Row) -> None:
        self._note(row)
        self._known.remove(row)

    def pairs(self) -> list[tuple[Row | None, Row | None]]:
        """Returns each written row before and after, in the order of the first writes. None: there is no row."""
        return [(before, self._known.find(kind, key)) for (kind, key), before in self._rows.items()]

    def _note(self, row: Row) -> None:
        place = (type(row), row.key)
        if place not in self._rows:
            self._rows[place] = self._known.find(*place)


def changes_of(pairs: Iterable[tuple[Row | None, Row | None]], customer_id: str | None) -> list[Change]:
    """Returns the rows that differ, without those in which only bookkeeping differs.

    `customer_id` is the customer of the event: personal data of any other is left out.
    """
    return [
        change
        for before, after in pairs
        if before is not after and (change := _change(before, after, customer_id)) is not None
    ]


def _change(before: Row | None, after: Row | None, customer_id: str | None) -> Change | None:
    row = after if after is not None else before
    if row is None:
        return None
    kind = type(row)
    differing = _fields(kind, before, after)
    if kind in _PERSONAL and not _is_of(row, customer_id):
        differing = {name: both for name, both in differing.items() if name.split(".")[0] not in _PERSONAL[kind]}
    if not differing:
        return None
    did = "created" if before is None else "removed" if after is None else "updated"
    key = "/".join(filter(None, row.key))
    return {"table": TABLE_NAMES[kind], "key": key, "did": did, "fields": differing}


def _is_of(row: Row, customer_id: str | None) -> bool:
    owner = getattr(row, "customer_id", None)
    return owner is not None and owner == customer_id


def _fields(kind: type[Row], before: Row | None, after: Row | None) -> dict[str, list[Any]]:
    """Returns the columns that differ. A row that is created or removed shows those that are not empty."""
    shown = _SHOWN[kind]
    old: dict[str, Any] = vars(before) if before is not None else {}
    new: dict[str, Any] = vars(after) if after is not None else {}
    if old and new:
        found = {
            name: [one, other]
            for name, other in new.items()
            if (one := old[name]) is not other and one != other and name in shown
        }
    else:
        found = {name: [None, other] for name, other in new.items() if other and name in shown}
        found |= {name: [one, None] for name, one in old.items() if one and name in shown}
    if _JSON[kind].isdisjoint(found):
        return found
    return dict(part for name, (one, other) in found.items() for part in _parts(kind, name, one, other))


def _parts(kind: type[Row], name: str, one: Any, other: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yields the column, or if it is a JSON object, the fields of it that differ."""
    if name not in _JSON[kind]:
        yield name, [one, other]
        return
    one, other = one or {}, other or {}
    for key in {**one, **other}:
        if one.get(key) != other.get(key):
            yield f"{name}.{key}", [one.get(key), other.get(key)]
