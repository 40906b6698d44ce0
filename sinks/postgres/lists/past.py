"""The state of a customer at a past moment: today's rows, without what later events changed. Pure.

    rows now ── undo the newest event ── undo the one before it ── … ──▶ rows at the moment

It undoes what was stored, so it shows what the tables said then, by the rules of that time. Fields that the ledger does
not keep (versions and other bookkeeping) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

State = dict[str, dict[str, dict[str, Any]]]
"""Table → key → field → value. A field of a JSON column is `column.field` only where an event changed it."""


def undone(present: Mapping[str, Mapping[str, Mapping[str, Any]]], newest_first: Iterable[Mapping[str, Any]]) -> State:
    """Returns the state before the events with these `changes`. `present` is not changed.

    Only rows of the tables in `present` are undone: of another table the fields that did not change are not known.
    """
    state: State = {table: {key: dict(fields) for key, fields in rows.items()} for table, rows in present.items()}
    for event in newest_first:
        for change in reversed(event["changes"]):
            if change["table"] in state:
                _undo(state[change["table"]], change)
    return {table: rows for table, rows in state.items() if rows}


def not_shown(present: Mapping[str, object], changes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the tables that the events changed and that are not in `present`, in order of their names."""
    return sorted({change["table"] for event in changes for change in event["changes"]} - present.keys())


def access_at(organization: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """Returns `has_access`, `plan` and `reason` at a moment, from a row as it was then.

    A row says what applies until a grace time ends, and what applies after it.
    """
    found = {
        "has_access": organization.get("has_access"),
        "plan": organization.get("plan"),
        "reason": organization.get("access_reason"),
    }
    after = organization.get("access_after") or {}
    for step in ({"until": organization.get("access_until")} | after, *after.get("then", ())):
        if step["until"] and datetime.fromisoformat(str(step["until"])) <= at:
            found = {name: step.get(name) for name in found}
    return found


def _undo(rows: dict[str, dict[str, Any]], change: Mapping[str, Any]) -> None:
    key, before = change["key"], {name: both[0] for name, both in change["fields"].items()}
    if change["did"] == "created":
        rows.pop(key, None)
        return
    if change["did"] == "removed":
        rows[key] = {}
    row = rows.get(key)
    if row is None:  # it was deleted without an event, such as by pruning
        return
    for name, value in before.items():
        column, _, part = name.partition(".")
        holder = row.get(column)
        if part and isinstance(holder, Mapping):
            rest = {inner: one for inner, one in holder.items() if inner != part}
            row[column] = rest if value is None else rest | {part: value}
        else:
            row[name] = value


def keyed(table: str, key: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns stored rows as the state of one table: by their key as the ledger writes it, times as ISO 8601."""
    names = list(key)
    return {
        table: {
            "/".join(str(row[name]) for name in names if row[name]): {name: _plain(one) for name, one in row.items()}
            for row in rows
        }
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
