"""Columns as the tables of every schema define them."""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, Integer, Text
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB


def text(name: str, *, key: bool = False, null: bool = True, default: str | None = None) -> Column[str]:
    nullable = null and not key and default is None
    return Column(
        name, Text, primary_key=key, nullable=nullable, server_default=None if default is None else sql(f"'{default}'")
    )


def time(name: str, *, key: bool = False, null: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), primary_key=key, nullable=null and not key)


def count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=sql("0"))


def flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=sql("false"))


def json(name: str, *, null: bool = False) -> Column[object]:
    return Column(name, JSONB, nullable=null, server_default=None if null else sql("'{}'"))


def json_list(name: str) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=sql("'[]'"))


def version(name: str) -> Column[str]:
    return text(name, default="")


def one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=f"{column}_known")
