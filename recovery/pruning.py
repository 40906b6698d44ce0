"""One run of `billing prune`, with its row in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pydantic import SecretStr

from schemas.retention import Retention
from sinks.postgres import audit_log
from sinks.postgres.audit_log import AuditEntry, Outcome, Role
from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, connect
from sinks.postgres.prune import ACTION, Age, count_due, prune

_BOUNDS = SessionTimeouts(statement_s=600.0, lock_s=3.0)


def ages_of(retention: Retention, older_than: timedelta | None = None) -> dict[Age, timedelta | None]:
    """Returns the two ages, None for what is kept. `older_than` replaces that of the contents."""

    def age(days: int) -> timedelta | None:
        return timedelta(days=days) if days else None

    contents = older_than if older_than is not None else age(retention.contents_days)
    return {Age.CONTENTS: contents, Age.RECORDS: age(retention.records_days)}


async def run(
    url: SecretStr,
    retention: Retention,
    *,
    by: str,
    role: Role = Role.CLI,
    older_than: timedelta | None = None,
    dry_run: bool = False,
    say: Callable[[int, int | None], None] | None = None,
) -> dict[str, int]:
    """Prunes, or counts what is due. Returns the rows of each step. Raises StoreUnavailable, InvalidSettings."""
    ages = ages_of(retention, older_than)
    connection = await connect(url, application="billing-prune", bounds=_BOUNDS)
    try:
        if dry_run:
            return await count_due(connection, ages)
        chosen = {str(name): f"{age.days} days" for name, age in ages.items() if age is not None}
        entry = AuditEntry(who=by, role=role, action=ACTION, filter=chosen, outcome=Outcome.BEGUN)
        with classified():
            entry_id = await audit_log.record(connection, entry)
        done = await prune(connection, ages, say)
        with classified():
            await audit_log.complete(connection, entry_id, Outcome.DONE, count=sum(done.values()))
        return done
    finally:
        connection.terminate()
