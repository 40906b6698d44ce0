"""The tables match the types of the rows stored in them."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB

from schemas.state import ROW_TYPES, Row
from schemas.verdict import Verdict
from sinks.postgres import tables
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.rows import DeadLetterRow, LedgerRow

OTHERS: dict[type[Any], Any] = {
    LedgerRow: tables.events,
    **{outbox.row_type: outbox.table for outbox in OUTBOXES},
    DeadLetterRow: tables.dead_letters,
}


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
def test_each_field_of_a_state_row_is_a_column_and_each_column_a_field(kind: type[Row]) -> None:
    table = tables.STATE_TABLES[kind]
    by_postgres = {"access_version"}  # set by a trigger
    assert [column.name for column in table.columns if column.name not in by_postgres] == [
        field.name for field in fields(kind)
    ]
    assert tuple(column.name for column in table.primary_key) == kind.key_columns


@pytest.mark.parametrize("kind", [*ROW_TYPES, *OTHERS], ids=lambda kind: kind.__name__)
def test_each_column_fits_the_type_of_its_field(kind: type[Any]) -> None:
    """The column type and its nullability match the field."""
    table = tables.STATE_TABLES[kind] if kind in tables.STATE_TABLES else OTHERS[kind]
    for name, hint in get_type_hints(kind).items():
        if name == "key_columns":
            continue
        options = [option for option in get_args(hint) if option is not type(None)]
        is_optional = type(None) in get_args(hint)
        column = table.c[name]
        assert column.nullable == is_optional, f"{table.name}.{name}: nullable is {column.nullable}"
        plain = options[0] if is_optional else hint
        assert isinstance(column.type, _column_type(plain, column)), f"{table.name}.{name}: {column.type!r} for {plain}"


def _column_type(hint: Any, column: Column[Any]) -> tuple[type[Any], ...]:
    if get_origin(hint) is not None:
        return (JSONB,)
    if hint is bool:
        return (Boolean,)
    if hint is int:
        return (BigInteger,) if column.name in ("amount", "offset", "unit_amount") else (Integer, BigInteger)
    if hint is datetime:
        assert getattr(column.type, "timezone", True), "a time without a time zone"
        return (DateTime,)
    return (Text, JSONB) if column.name == "payload" else (Text,)


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
def test_each_enum_has_a_check_constraint(kind: type[Row]) -> None:
    """Another program then cannot write a status that this code cannot read."""
    table = tables.STATE_TABLES[kind]
    checks = {str(check.name): str(check.sqltext) for check in table.constraints if isinstance(check, CheckConstraint)}
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            listed = ", ".join(f"'{value}'" for value in hint)
            assert checks[f"{name}_known"] == f"{name} in ({listed})"


def test_the_ledger_accepts_the_outcome_of_each_verdict_but_a_duplicate() -> None:
    """A duplicate already has a ledger row."""
    names = {kind.__name__.lower() for kind in get_args(Verdict)}
    assert names - {"duplicate"} == set(tables.OUTCOMES)
