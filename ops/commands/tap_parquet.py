"""Writes the Parquet file of `billing tap --parquet`: one row per record, with the exact bytes that Stripe sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from eventlog.tap import Tapped

_TEXTS = ("event_id", "type", "source", "account", "api_version", "endpoint", "received_at")

SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("key", pa.string()),
        *((name, pa.string()) for name in _TEXTS),
        ("livemode", pa.bool_()),
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


def _row(record: Tapped) -> dict[str, object]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.at,
        "key": record.key,
        **{name: record.headers.get(name, "") for name in _TEXTS},
        "livemode": record.headers.get("livemode") == "true",
        "value": record.value,
    }
