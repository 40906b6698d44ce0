"""Writes the Parquet file of `billing tap --parquet`: one row per record, with the exact bytes that Stripe sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from eventlog.tap import Tapped

_TEXTS = ("event_id", "type", "source", "account", "api_version", "endpoint", "received_at")

_FACTS = (
    ("customer", pa.string()),
    ("object", pa.string()),
    ("object_id", pa.string()),
    ("status", pa.string()),
    ("amount", pa.int64()),
    ("currency", pa.string()),
    ("created", pa.timestamp("s", tz="UTC")),
)
"""What analysts need of the event's object; null where it does not have it. Amounts are in minor units."""

SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("key", pa.string()),
        *((name, pa.string()) for name in _TEXTS),
        ("livemode", pa.bool_()),
        *_FACTS,
        ("value", pa.binary()),
    ]
)

_ROWS = 5_000
"""Rows per row group. About 15 MB of events are held in memory."""


class ParquetFile:
    """Writes `NAME.part` and renames it to `NAME` on close, so that `NAME` is always complete. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._rows: list[Tapped] = []
        self._writer = pq.ParquetWriter(self._part, SCHEMA, compression="zstd")

    def write(self, records: Sequence[Tapped]) -> None:
        self._rows += records
        if len(self._rows) >= _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._part.replace(self._path)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist([_row(record) for record in self._rows], schema=SCHEMA))
            self._rows.clear()


def _facts(value: bytes | None) -> dict[str, object]:
    try:
        event = orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(event, dict):
        return {}
    data = event.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    o: dict[str, object] = found if isinstance(found, dict) else {}
    customer = o.get("id") if o.get("object") == "customer" else o.get("customer")
    return {
        "customer": _text(customer.get("id") if isinstance(customer, dict) else customer),
        "object": _text(o.get("object")),
        "object_id": _text(o.get("id")),
        "status": _text(o.get("status")),
        "amount": amount if _is_int64(amount := _amount(o)) else None,
        "currency": _text(o.get("currency")),
        "created": created if _is_time(created := event.get("created")) else None,
    }


def _amount(o: dict[str, object]) -> object:
    """Return the object's amount: of a paid invoice what was paid, of any other what is due."""
    if o.get("object") == "invoice":
        return o.get("amount_paid" if o.get("status") == "paid" else "amount_due")
    return o.get("amount", o.get("amount_total"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 253_402_300_800


def _row(record: Tapped) -> dict[str, object]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.at,
        "key": record.key,
        **{name: record.headers.get(name, "") for name in _TEXTS},
        "livemode": record.headers.get("livemode") == "true",
        **_facts(record.value),
        "value": record.value,
    }
