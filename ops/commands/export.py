"""`billing export`: writes everything that is stored on a customer, a user or a guest to an archive (B6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import Column, database_or_exit, fail, refuse, run_or_exit, say, say_json, show_rows
from recovery.privacy.exporting import Exported, export_data
from recovery.privacy.subjects import find_subjects
from sinks.postgres.pool import SessionTimeouts, connect

_BOUNDS = SessionTimeouts(statement_s=600.0)
_COMMAND = "export"


def export(
    who: Annotated[str, typer.Argument(help="Customer id (cus_…), user id, or e-mail address, also of a guest.")],
    reason: Annotated[
        str | None, typer.Option(help="Why, for the audit log. Addresses in it are replaced by a digest.")
    ] = None,
    output: Annotated[
        Path, typer.Option(file_okay=False, exists=True, help="The folder for the archives, one per customer.")
    ] = Path(),
    account: Annotated[
        str | None, typer.Option(help="Only this connected account (acct_…); '' for your own. Default: every one.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Your name, for the audit log. Default: the system user.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the rows per table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write everything that is stored on a person: a ZIP with JSON for programs and CSV for people.

    Example: billing export jane@example.com --reason "request 1042" --output /tmp

    Only you can read the files. Payloads that were pruned or erased are not in them. Who, why and how many rows is in
    billing.audit_log.

    Exits 1 if no one is found or a file exists already, 2 if an argument or setting is invalid, 3 if Postgres does not
    answer.
    """
    if reason is None and not dry_run:
        refuse(_COMMAND, "give a --reason for the audit log, or use --dry-run")
    settings = database_or_exit(_COMMAND)

    async def work() -> list[Exported]:
        connection = await connect(settings.database_url, application="billing-export", bounds=_BOUNDS)
        try:
            subjects = await find_subjects(connection, who, account=account)
            folder = None if dry_run else output
            return await export_data(connection, subjects, folder, by=entry_for("export", by).who, reason=reason or "")
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
        show_rows(
            [Column("table"), Column("rows", right=True)],
            [(name, rows) for name, rows in one.counts.items()],
            title=one.name,
        )
        say(f"{sum(one.counts.values())} rows{f' in {one.path}' if one.path is not None else ' (dry run)'}")
