"""Writes the Parquet file of `billing mrr --parquet`: the columns of each table have the same types with any rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

_TEXTS = frozenset((
    "currency", "plan", "customer", "month", "step", "kind", "outcome", "dunning_steps", "failure_reason", "next_timer",
    "last_mail", "last_mail_status", "mrr_currency", "customer_email", "customer_name", "account", "version",
))  # fmt: skip
_SHARE = pa.decimal128(12, 4)


def type_of(column: str) -> pa.DataType:
    """Returns the type of a column by its name. Amounts are whole minor units; times and days are UTC."""
    if column in _TEXTS or column.endswith("_id"):
        return pa.string()
    if column == "livemode":
        return pa.bool_()
    if column == "day":
        return pa.date32()
    if column == "at" or column.endswith("_at"):
        return pa.timestamp("us", tz="UTC")
    return _SHARE if column == "rate" or column.endswith("_percent") else pa.int64()


def write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `NAME.part` and renames it, so that `NAME` is always complete. Raises OSError."""
    schema = pa.schema([(name, type_of(name)) for name in columns])
    made = [{name: _cell(row[name], schema.field(name).type) for name in columns} for row in rows]
    part = path.with_name(f"{path.name}.part")
    pq.write_table(pa.Table.from_pylist(made, schema=schema), part, compression="zstd")
    part.replace(path)


def _cell(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if type_ == _SHARE:
        return Decimal(value)
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value
