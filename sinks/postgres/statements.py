"""Builds multi-row SQL statements from dataclasses, with one list per column that Postgres unnests.

The statements are built once from the tables and the fields of the dataclasses, so a new column needs no SQL. Lists of
texts and times are sent as JSON, all others as arrays. For each element of an array, the driver checks twice whether it
is an array itself, and it splits times into parts in Python. With JSON, a text costs half the time in the client and no
more in the server. A time costs a third in the client; the server needs more, but less than the client saves
(docs/performance.md).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_type_hints

import orjson
from sqlalchemy import Column, DateTime, Table, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from schemas.errors import StoreRefused
from schemas.fast_row import values_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)
else:
    R = TypeVar("R")

_AS_JSON = (Text, DateTime)
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy


class RowShape(Generic[R]):
    """Statements and arguments for one table and the dataclass of its rows.

    The statements do not set columns that are missing in the dataclass.
    """

    def __init__(self, table: Table, row_type: type[R], key: Sequence[str]) -> None:
        hints = get_type_hints(row_type)
        self.table = table
        self.row_type = row_type
        self.key = tuple(key)
        self.names = tuple(field.name for field in fields(row_type))
        self.arguments_named = tuple(f"{table.name}.{name}" for name in self.names)
        columns = [table.c[name] for name in self.names]
        self._values: Callable[[R], tuple[Any, ...]] = values_of(row_type, self.names)
        self._key_of: Callable[[R], Any] = attrgetter(*self.key)
        self._encoders = [(at, code) for at, column in enumerate(columns) if (code := _encoder(column))]
        self._as_json = [at for at, column in enumerate(columns) if isinstance(column.type, _AS_JSON)]
        self._decoders = [(c.name, code) for c in columns if (code := _decoder(c, hints[c.name]))]

        self.selected = ", ".join(f't."{name}"' for name in self.names)
        lists = ", ".join(_unnested(column, at) for at, column in enumerate(columns, 1))
        self._source = f"ROWS FROM ({lists}) AS r ({_listed(self.names)})"
        self._read = {c.name: f'r."{c.name}"' + _cast(c) for c in columns}
        self._same_key = " AND ".join(f't."{name}" = {self._read[name]}' for name in self.key)

    def insert(self, conflict: str) -> str:
        """Returns an INSERT. `conflict` is the text after ON CONFLICT; it refers to the table as `t`."""
        values = ", ".join(self._read.values())
        return (
            f"INSERT INTO {self.table.fullname} AS t ({_listed(self.names)}) "  # noqa: S608  # names of our own tables
            f"SELECT {values} FROM {self._source} ON CONFLICT {conflict}"
        )

    def update(self) -> str:
        """Returns an UPDATE that sets all columns except the key, in the rows with the given keys."""
        values = ", ".join(f'"{name}" = {read}' for name, read in self._read.items() if name not in self.key)
        return f"UPDATE {self.table.fullname} AS t SET {values} FROM {self._source} WHERE {self._same_key}"  # noqa: S608  # as above

    def delete(self) -> str:
        """Returns a DELETE of the rows with the given keys."""
        return f"DELETE FROM {self.table.fullname} AS t USING {self._source} WHERE {self._same_key}"  # noqa: S608  # as above

    def arguments(self, rows: Iterable[R]) -> list[Sequence[Any]]:
        """Returns the rows (at least one), sorted by key, as one list per column.

        Raises StoreRefused, JSONEncodeError.
        """
        columns: list[Sequence[Any]] = list(zip(*map(self._values, sorted(rows, key=self._key_of)), strict=True))
        for at, encode in self._encoders:
            columns[at] = [encode(value) for value in columns[at]]
        for at in self._as_json:
            columns[at] = as_texts(columns[at])
        return columns

    def row(self, record: Iterable[Any]) -> R:
        """Converts a record, or the values, of the columns in `selected` into the dataclass."""
        values: dict[str, Any] = dict(zip(self.names, record, strict=True))
        for name, decode in self._decoders:
            values[name] = decode(values[name])
        return self.row_type(**values)


def texts(at: int) -> str:
    """Returns SQL that unnests parameter `at` into rows of one text column."""
    return f"json_array_elements_text(${at}::json)"


def as_texts(values: Iterable[str | datetime | None]) -> str:
    """Returns the argument for a parameter of `texts`. Raises JSONEncodeError."""
    return orjson.dumps(tuple(values)).decode()


def json_text(value: object) -> str | None:
    """Returns the argument for a JSON column. A str must be JSON text already."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, default=_plain).decode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _aware(value: datetime | None) -> datetime | None:
    # asyncpg would interpret a naive time as the machine's local time.
    if value is not None and value.tzinfo is None:
        raise StoreRefused("a time without a time zone")
    return value


def _encoder(column: Column[Any]) -> Callable[[Any], object] | None:
    if isinstance(column.type, JSONB):
        return json_text
    return _aware if isinstance(column.type, DateTime) else None


def _decoder(column: Column[Any], hint: object) -> Callable[[Any], object] | None:
    if isinstance(column.type, JSONB):
        return orjson.loads
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _optional(kind)
    return None


def _optional(kind: type[enum.Enum]) -> Callable[[Any], object]:
    members = {member.value: member for member in kind}  # a call of the class takes seven times as long
    return lambda value: None if value is None else members.get(value) or kind(value)


def _unnested(column: Column[Any], at: int) -> str:
    """Returns SQL that unnests parameter `at`. JSON is sent as text[], because escaping payloads again is expensive."""
    if isinstance(column.type, _AS_JSON):
        return texts(at)
    kind = "text" if isinstance(column.type, JSONB) else column.type.compile(_DIALECT)
    return f"unnest(${at}::{kind}[])"


def _cast(column: Column[Any]) -> str:
    if isinstance(column.type, DateTime):
        return "::timestamptz"
    return "::jsonb" if isinstance(column.type, JSONB) else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
