"""The registry of row types is complete: a type that is left out anywhere fails here by name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from recovery.rebuild.comparison import COMPARED
from schemas import state
from schemas.effects import Save
from schemas.known import Known
from schemas.state import ROW_TYPES, Row
from sinks.postgres import tables
from sinks.postgres.loading import QUERIES, SHAPES
from tests.kits.rulekit import CONFIG, unique_columns

EACH = pytest.mark.parametrize("kind", get_args(Row), ids=lambda kind: kind.__name__)


def test_each_class_with_a_key_is_a_row_type() -> None:
    """A class of schemas/state.py that is missing in `Row` would be neither loaded nor written."""
    declared = {
        name for name, kind in vars(state).items()
        if isinstance(kind, type) and kind.__module__ == state.__name__ and hasattr(kind, "key_columns")
    }  # fmt: skip
    assert declared == {kind.__name__ for kind in get_args(Row)}, "add it to Row"


@EACH
def test_each_row_type_has_a_place_in_the_order_of_locks(kind: type[Row]) -> None:
    assert ROW_TYPES.count(kind) == 1, f"add {kind.__name__} to ROW_TYPES, at its end"


@EACH
def test_each_row_type_is_stored_loaded_and_compared(kind: type[Row]) -> None:
    assert kind in tables.STATE_TABLES, f"add {kind.__name__} to STATE_TABLES"
    assert kind in QUERIES, f"add a query for {kind.__name__} to sinks/postgres/loading.py"
    assert kind in SHAPES
    assert tables.STATE_TABLES[kind] in COMPARED


@EACH
def test_each_row_type_can_be_saved_by_a_rule(kind: type[Row]) -> None:
    """Timers have effects of their own."""
    assert kind in (*get_args(get_type_hints(Save)["row"]), state.Timer), f"add {kind.__name__} to SavedRow"


@EACH
def test_the_rules_of_the_tests_have_the_unique_constraints_of_the_table(kind: type[Row]) -> None:
    assert is_dataclass(kind)
    names = {field.name for field in fields(kind)}
    assert all(set(columns) <= names for columns in unique_columns(kind))


def test_unique_constraints_are_those_of_the_store() -> None:
    found: dict[str, Any] = {kind.__name__: unique_columns(kind) for kind in ROW_TYPES if unique_columns(kind)}
    assert found == {
        "Organization": [("account", "customer_id")],
        "Payment": [("account", "invoice_id"), ("account", "checkout_session_id")],
    }
    assert Known(CONFIG).changed(state.Customer)[0] == []
