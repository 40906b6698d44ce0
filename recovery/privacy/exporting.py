"""Writes the archives of a request for one's data to files, each with a row in the audit log."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import asyncpg

from recovery.privacy.subjects import CustomerSubject, Subjects, guest_name
from schemas.ordering import GUEST
from schemas.storable import bounded
from sinks.exports.archive import write_archive, write_archive_of_guest
from sinks.postgres import audit_log
from sinks.postgres.audit_log import AuditEntry, Outcome
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
    *,
    by: str,
    reason: str,
) -> list[Exported]:
    """Writes one archive per customer and guest into the folder; `folder` None only counts their rows.

    The files are readable only for their owner. An existing file is not overwritten. Raises StoreUnavailable, OSError.
    """
    whose: list[tuple[CustomerSubject | GuestData, str, str]] = [
        *((one, one.name.replace("/", "-"), one.name) for one in subjects.customers),
        *((one, _stem(one, subjects), guest_name(one)) for one in subjects.guests),
    ]
    return [await _one(connection, one, f"export-{stem}", name, folder, by, reason) for one, stem, name in whose]


def _stem(guest: GuestData, subjects: Subjects) -> str:
    digest = (subjects.guest_key or GUEST).removeprefix(GUEST)[:16]
    return "-".join(part for part in (guest.account, "guest", digest) if part)


async def _one(
    connection: asyncpg.Connection[asyncpg.Record],
    whose: CustomerSubject | GuestData,
    stem: str,
    name: str,
    folder: Path | None,
    by: str,
    reason: str,
) -> Exported:
    if folder is None:
        with tempfile.TemporaryFile() as nothing:
            return Exported(name, None, await _write(connection, whose, nothing))
    target = whose.customer_id if isinstance(whose, CustomerSubject) else stem
    entry = AuditEntry(
        who=by,
        action=ACTION,
        target=target,
        filter={"account": whose.account},
        outcome=Outcome.BEGUN,
        reason=reason,
    )
    with classified():
        entry_id = await audit_log.record(connection, entry)
    path = folder / f"{bounded(stem)}.zip"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            counts = await _write(connection, whose, file)
    except BaseException as error:
        await _ended(connection, entry_id, Outcome.FAILED, None, type(error).__name__)
        if not isinstance(error, FileExistsError):
            path.unlink(missing_ok=True)
        raise
    await _ended(connection, entry_id, Outcome.DONE, sum(counts.values()), None)
    return Exported(name, path, counts)


async def _write(
    connection: asyncpg.Connection[asyncpg.Record], whose: CustomerSubject | GuestData, file: IO[bytes]
) -> dict[str, int]:
    with classified():
        if isinstance(whose, GuestData):
            return await write_archive_of_guest(connection, file, whose)
        return await write_archive(
            connection,
            file,
            account=whose.account,
            customer_id=whose.customer_id,
            organization_id=whose.organization_id,
        )


async def _ended(
    connection: asyncpg.Connection[asyncpg.Record], entry_id: int, outcome: Outcome, count: int | None, why: str | None
) -> None:
    with classified():
        await audit_log.complete(connection, entry_id, outcome, count=count, reason=why)
