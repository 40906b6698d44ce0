"""Writes the archives of a request for one's data to files, each with a row in the audit log."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import asyncpg
from pydantic import SecretStr

from recovery.privacy.subjects import CustomerSubject, Subjects, guest_name
from schemas.ordering import GUEST
from schemas.storable import bounded
from sinks.exports.archive import write_archive, write_archive_of_guest
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.audited import recorded
from sinks.postgres.failures import classified
from sinks.postgres.ownership import GuestData

ACTION = "customer.export"


@dataclass(frozen=True, slots=True)
class Exported:
    """One archive: whose it is, its file (None for a dry run) and its rows by table."""

    name: str
    path: Path | None
    counts: dict[str, int]


async def export_data(
    connection: asyncpg.Connection[asyncpg.Record],
    subjects: Subjects,
    folder: Path | None,
    payloads: PayloadArchive,
    *,
    url: SecretStr,
    by: str,
    reason: str,
) -> list[Exported]:
    """Writes one archive per customer and guest into the folder; `folder` None only counts their rows.

    The files are readable only for their owner. An existing file is not overwritten, and no part of an archive is left
    if it cannot be completed. Each archive is recorded in the audit log over a connection of its own to `url`.
    Raises StoreUnavailable, ArchiveAway, OSError.
    """
    whose: list[tuple[CustomerSubject | GuestData, str, str]] = [
        *((one, one.name.replace("/", "-"), one.name) for one in subjects.customers),
        *((one, _stem(one, subjects), guest_name(one)) for one in subjects.guests),
    ]
    found = []
    for one, stem, name in whose:
        if folder is None:
            with tempfile.TemporaryFile() as nothing:
                found.append(Exported(name, None, await _write(connection, one, nothing, payloads)))
            continue
        target = one.customer_id if isinstance(one, CustomerSubject) else f"export-{stem}"
        entry = AuditEntry(who=by, action=ACTION, target=target, filter={"account": one.account}, reason=reason)
        async with recorded(url, entry) as noted:
            path = folder / f"{bounded(f'export-{stem}')}.zip"
            with _new_file(path) as file:
                counts = await _write(connection, one, file, payloads)
            noted.count = sum(counts.values())
        found.append(Exported(name, path, counts))
    return found


def _stem(guest: GuestData, subjects: Subjects) -> str:
    digest = (subjects.guest_key or GUEST).removeprefix(GUEST)[:16]
    return "-".join(part for part in (guest.account, "guest", digest) if part)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Creates the file, and deletes it again if the block or the last write to the disk fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _write(
    connection: asyncpg.Connection[asyncpg.Record],
    whose: CustomerSubject | GuestData,
    file: IO[bytes],
    payloads: PayloadArchive,
) -> dict[str, int]:
    with classified():
        if isinstance(whose, GuestData):
            return await write_archive_of_guest(connection, file, payloads, whose)
        return await write_archive(
            connection,
            file,
            payloads,
            account=whose.account,
            customer_id=whose.customer_id,
            organization_id=whose.organization_id,
        )
