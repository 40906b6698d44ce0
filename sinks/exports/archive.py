"""Writes one customer's rows of all tables to a ZIP archive, as JSON for programs and as CSV for people.

    manifest.json          description, time of creation, number of rows per table, payloads that are missing
    json/{table}.json      an array of rows; times are ISO 8601 in UTC, money is in minor units
    csv/{table}.csv        the same, one line per row, UTF-8

All files show the same snapshot of the database. Rows are streamed, so memory use does not depend on their number.
"""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import orjson
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB

from schemas.csv_text import csv_cell
from schemas.payloads import PayloadLost
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import tables
from sinks.postgres.ownership import GuestData
from sinks.postgres.personal_data import OF_GUEST, held_on_customers, rows_of
from sinks.postgres.planning import AS_ELSEWHERE

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

FORMAT = 1
_ABOUT = "All that is held on this organization and its customer. Amounts are in minor units, times are in UTC."
_NOT_EXPORTED = frozenset({"claimed_by", "location", "payload_key", "payload_place"})
"""Columns with internal data: the owner of a claim, the file name of an archive, where an archived payload is."""
_PLACED = ("event_id", "payload_place", "payload_key")
_ROWS_AT_ONCE = 200
_PAYLOADS_AT_ONCE = 16
"""Archived payloads that are read at once, and rows of events whose payloads are in memory."""
_SPOOL_BYTES = 8 * 1024 * 1024
_BUFFER_BYTES = 256 * 1024


async def write_archive(
    connection: Connection,
    file: IO[bytes],
    payloads: PayloadArchive,
    *,
    account: str,
    customer_id: str,
    organization_id: str,
) -> dict[str, int]:
    """Write the archive and return the number of rows per table. What `payloads` keeps is read from there.

    A payload whose file is lost is named in the manifest. Raises the database driver's errors, OSError and ArchiveAway.
    """
    whose = {"account": account, "customer_id": customer_id, "organization_id": organization_id}
    conditions = {str(table.name): rows_of(table) for table in held_on_customers()}
    return await _write(connection, file, payloads, conditions, tuple(whose.values()), whose)


async def write_archive_of_guest(
    connection: Connection, file: IO[bytes], payloads: PayloadArchive, guest: GuestData
) -> dict[str, int]:
    """Write the archive of somebody who bought without a customer. Returns and raises the same."""
    arguments = (guest.event_ids, guest.stripe_ids, guest.account)
    return await _write(connection, file, payloads, OF_GUEST, arguments, {"account": guest.account, "guest": True})


async def _write(
    connection: Connection,
    file: IO[bytes],
    payloads: PayloadArchive,
    conditions: Mapping[str, str],
    arguments: tuple[object, ...],
    whose: Mapping[str, object],
) -> dict[str, int]:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(AS_ELSEWHERE)  # on a dispatcher's connection, too: conditions over several tables
        made_at: datetime = await connection.fetchval("SELECT now()")
        revision: str = await connection.fetchval("SELECT version_num FROM billing.alembic_version")
        counts: dict[str, int] = {}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, _Archived(payloads) as archived:
            for name, condition in sorted(conditions.items()):
                table = tables.metadata.tables[f"billing.{name}"]
                counts[name] = await _write_table(connection, archive, archived, table, condition, arguments, made_at)
            manifest = {
                "format": FORMAT,
                "about": _ABOUT,
                "made_at": made_at,
                "schema_revision": revision,
                **whose,
                "rows": counts,
                "missing_payloads": archived.missing,
            }
            archive.writestr(_entry("manifest.json", made_at), orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return counts


async def _write_table(
    connection: Connection,
    archive: zipfile.ZipFile,
    archived: _Archived,
    table: Table,
    condition: str,
    arguments: tuple[object, ...],
    made_at: datetime,
) -> int:
    """Write the table's two files; return its number of rows.

    Reads the rows twice, because a ZIP is written one file after another; both passes read the same snapshot.
    """
    # Column names are a str subclass, which orjson rejects as a key.
    names = [str(column.name) for column in table.c if column.name not in _NOT_EXPORTED]
    json_columns = {name for name in names if isinstance(table.c[name].type, JSONB)}
    count = 0

    async def as_json() -> AsyncIterator[bytes]:
        nonlocal count
        async for row in _rows(connection, archived, table, condition, names, arguments):
            values = {
                name: orjson.Fragment(value) if name in json_columns and value is not None else value
                for name, value in row.items()
            }
            yield (b",\n" if count else b"[\n") + orjson.dumps(values)
            count += 1
        yield b"\n]\n" if count else b"[]\n"

    async def as_csv() -> AsyncIterator[bytes]:
        yield _csv_line(names)
        async for row in _rows(connection, archived, table, condition, names, arguments):
            yield _csv_line(list(row.values()))

    await _write_file(archive, _entry(f"json/{table.name}.json", made_at), as_json())
    await _write_file(archive, _entry(f"csv/{table.name}.csv", made_at), as_csv())
    return count


async def _rows(
    connection: Connection,
    archived: _Archived,
    table: Table,
    condition: str,
    names: list[str],
    arguments: tuple[object, ...],
) -> AsyncIterator[dict[str, Any]]:
    has_payloads = table is tables.events
    read = dict.fromkeys([*names, *(_PLACED if has_payloads else ())])
    listed = ", ".join(f't."{name}"' for name in read)
    order = ", ".join(f't."{column.name}"' for column in table.primary_key)
    query = f"SELECT {listed} FROM {table.fullname} t WHERE {condition} ORDER BY {order}"  # noqa: S608  # names from our schema
    at_once = _PAYLOADS_AT_ONCE if has_payloads else _ROWS_AT_ONCE
    cursor = await connection.cursor(query, *arguments)
    while rows := await cursor.fetch(at_once):
        found = await archived.of(rows) if has_payloads else {}
        for row in rows:
            values = {name: row[name] for name in names}
            if has_payloads and row["event_id"] in found:
                values["payload"] = found[row["event_id"]]
            yield values


class _Archived:
    """The archived payloads of one export. Each is read once, many at a time, and kept in a file until its end."""

    def __init__(self, payloads: PayloadArchive) -> None:
        self._payloads = payloads
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115  # closed by __exit__
        self._places: dict[str, tuple[int, int]] = {}
        self.missing: list[str] = []
        """Events whose payload is in no file any longer."""

    def __enter__(self) -> _Archived:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def of(self, rows: Sequence[asyncpg.Record]) -> dict[str, str]:
        """Returns the payloads of those rows that are in the archive alone, by event id. Raises ArchiveAway."""
        wanted = [row for row in rows if row["payload_key"] is not None and row["payload"] is None]
        new = [row for row in wanted if row["event_id"] not in self._places and row["event_id"] not in self.missing]
        read = await asyncio.gather(*map(self._read, new))
        for row, text in zip(new, read, strict=True):
            if text is None:
                self.missing.append(row["event_id"])
            else:
                self._places[row["event_id"]] = await asyncio.to_thread(self._keep, text)
        kept = [row["event_id"] for row in wanted if row["event_id"] in self._places]
        return {event_id: await asyncio.to_thread(self._kept, *self._places[event_id]) for event_id in kept}

    async def _read(self, row: asyncpg.Record) -> str | None:
        event_id, place, key = (row[name] for name in _PLACED)
        try:
            return await self._payloads.read(event_id, place, key)
        except PayloadLost:
            return None

    def _keep(self, text: str) -> tuple[int, int]:
        at = self._file.seek(0, io.SEEK_END)
        return at, self._file.write(text.encode())

    def _kept(self, at: int, length: int) -> str:
        self._file.seek(at)
        return self._file.read(length).decode()


async def _write_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, pieces: AsyncIterator[bytes]) -> None:
    """Write one file. Compresses in a thread, so that a large file does not delay the mails sent by this process."""
    buffer = bytearray()
    with archive.open(entry, "w", force_zip64=True) as member:
        async for piece in pieces:
            buffer += piece
            if len(buffer) >= _BUFFER_BYTES:
                await asyncio.to_thread(member.write, bytes(buffer))
                buffer.clear()
        await asyncio.to_thread(member.write, bytes(buffer))


def _entry(name: str, made_at: datetime) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, made_at.timetuple()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _csv_line(values: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([csv_cell(value) for value in values])
    return text.getvalue().encode()
