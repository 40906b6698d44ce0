"""One run of `billing prune`, with its row in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pydantic import SecretStr

from schemas.retention import Retention
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import audited
from sinks.postgres.audit_log import ActorRole, AuditEntry
from sinks.postgres.pool import SessionTimeouts, connect
from sinks.postgres.prune import ACTION, Age, count_due, prune

_BOUNDS = SessionTimeouts(statement_s=600.0, lock_s=3.0)


def ages_of(retention: Retention, older_than: timedelta | None = None) -> dict[Age, timedelta | None]:
    """Returns the ages, None for what is kept. `older_than` replaces that of the contents."""

    def age(days: int) -> timedelta | None:
        return timedelta(days=days) if days else None

    contents = older_than if older_than is not None else age(retention.contents_days)
    return {
        Age.CONTENTS: contents,
        Age.ARCHIVED: age(retention.archived_days),
        Age.RECORDS: age(retention.records_days),
    }


async def run(
    url: SecretStr,
    retention: Retention,
    *,
    by: str,
    role: ActorRole = ActorRole.CLI,
    older_than: timedelta | None = None,
    dry_run: bool = False,
    say: Callable[[int, int | None], None] | None = None,
    archive: PayloadArchive | None = None,
    may_end_for_good: bool = False,
) -> dict[str, int]:
    """Prunes, or counts what is due. Returns the rows of each step.

    With an archive, payloads are kept there. Without one they end, if they `may_end_for_good` or if no payload of this
    database is archived. Raises StoreUnavailable, ArchiveAway, InvalidSettings.
    """
    ages = ages_of(retention, older_than)
    connection = await connect(url, application="billing-prune", bounds=_BOUNDS)
    try:
        if dry_run:
            return await count_due(connection, ages)
        chosen = {str(name): f"{age.days} days" for name, age in ages.items() if age is not None}
        async with audited.recorded(url, AuditEntry(who=by, role=role, action=ACTION, filter=chosen)) as noted:
            noted.count = 0

            def note(rows: int, of: int | None) -> None:
                noted.count = rows  # its batches are committed, so a run that fails has pruned them
                if say is not None:
                    say(rows, of)

            return await prune(connection, ages, note, archive, may_end_for_good=may_end_for_good)
    finally:
        connection.terminate()
