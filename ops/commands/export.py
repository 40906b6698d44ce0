"""`billing export`: writes everything that is stored on a customer, a user or a guest to an archive (B6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.person import BOUNDS, Account, By, Json, Reason, Who, show_counts
from ops.commands.terminal import database_or_exit, exits, fail, refuse, run_or_exit, say, say_json
from recovery.privacy.exporting import Exported, export_data
from recovery.privacy.subjects import find_subjects
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.pool import connect

_COMMAND = "export"


def export(
    who: Who,
    reason: Reason = None,
    output: Annotated[
        Path, typer.Option(file_okay=False, exists=True, help="The folder for the archives, one per customer.")
    ] = Path(),
    account: Account = None,
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the rows per table.")] = False,
    as_json: Json = False,
) -> None:
    """Write everything that is stored on a person: a ZIP with JSON for programs and CSV for people.

    Example: billing export jane@example.com --reason "request 1042" --output /tmp

    Only you can read the files. Payloads in the archive (BILLING_PAYLOADS_URL) are in them; those that were pruned
    without it, or erased, are not. Who, why and how many rows is in billing.audit_log.

    Exits 1 if no one is found or a file exists already, 2 if an argument or setting is invalid, 3 if Postgres does not
    answer.
    """
    if reason is None and not dry_run:
        refuse(_COMMAND, "give a --reason for the audit log, or use --dry-run")
    settings = database_or_exit(_COMMAND)
    with exits(_COMMAND):
        archive = PayloadArchive(settings.payloads_url)

    async def work() -> list[Exported]:
        connection = await connect(settings.database_url, application="billing-export", bounds=BOUNDS)
        try:
            subjects = await find_subjects(connection, who, account=account)
            folder = None if dry_run else output
            who_asks = entry_for("export", by).who
            return await export_data(
                connection, subjects, folder, archive, url=settings.database_url, by=who_asks, reason=reason or ""
            )
        finally:
            connection.terminate()

    done = run_or_exit(_COMMAND, work, no=(OSError,))
    if not done:
        fail(_COMMAND, "no customer and no guest is known by that")
    if as_json:
        rows = [
            {"who": one.name, "file": str(one.path) if one.path is not None else None, "rows": one.counts}
            for one in done
        ]
        say_json({"dry_run": dry_run, "exports": rows})
        return
    for one in done:
        show_counts(one.name, one.counts)
        say(f"{sum(one.counts.values())} rows{f' in {one.path}' if one.path is not None else ' (dry run)'}")
