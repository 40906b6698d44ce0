"""Checks of Postgres: reachable, revision, rights, mode, and what waits there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ops.doctor.findings import CheckResult, Situation, failed, ok, warning
from schemas.database_url import DatabaseUrl
from schemas.settings import Mode
from sinks.postgres.failures import classified
from sinks.postgres.pool import Session, connect
from sinks.postgres.revisions import is_known, newest_revision
from sinks.postgres.roles import OPERATOR

_HAS_TABLES = "SELECT to_regclass('billing.alembic_version') IS NOT NULL"
_REVISION = "SELECT version_num FROM billing.alembic_version"
HELD = """
SELECT n.nspname AS schema, c.relname AS name, array_remove(ARRAY[
    CASE WHEN has_table_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
    CASE WHEN has_table_privilege(c.oid, 'INSERT') THEN 'INSERT' END,
    CASE WHEN has_any_column_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END,
    CASE WHEN has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END], NULL) AS held
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('billing', 'analytics') AND c.relkind = 'r' ORDER BY 1 DESC, 2
"""
"""The tables, and what this user may do with each. UPDATE of the audit log covers some columns only."""
_MAY_MIGRATE = "SELECT has_schema_privilege('billing', 'CREATE')"
_MODE = "SELECT livemode FROM billing.system_mode"
_UNKNOWN_PRICES = """
SELECT price_id, count(*) AS customers FROM billing.subscriptions
WHERE plan IS NULL AND price_id IS NOT NULL GROUP BY price_id ORDER BY 2 DESC, 1 LIMIT 10
"""
_DEAD = "SELECT count(*) FROM billing.dead_letters WHERE status = 'open'"
_OLDEST_MAJOR = 14
_MOST_SKEW_S = 30.0


async def check_postgres(situation: Situation) -> Sequence[CheckResult]:
    url = situation.settings.database_url
    session = await connect(url, application="billing-doctor")
    try:
        with classified():
            return await _check(session, situation)
    finally:
        session.terminate()


async def _check(session: Session, situation: Situation) -> list[CheckResult]:
    url = DatabaseUrl.of(situation.settings.database_url)
    found = [_server(session, url)]
    if session.per_transaction is not None and situation.settings.database_direct_url is None:
        found.append(shared_sessions_finding(has_key=situation.settings.stripe_api_key is not None))
    skew = abs((await session.fetchval("SELECT clock_timestamp()") - datetime.now(UTC)).total_seconds())
    if skew > _MOST_SKEW_S:
        found.append(warning(f"its clock differs from this machine's by {skew:.0f} s", "synchronise both (NTP)"))
    if not await session.fetchval(_HAS_TABLES):
        return [*found, failed("it has no tables", "run `billing migrate`")]
    found.append(_revision(await session.fetchval(_REVISION)))
    found.append(rights_finding(map(dict, await session.fetch(HELD)), situation.settings.role_prefix))
    if not await session.fetchval(_MAY_MIGRATE):
        found.append(warning("this user cannot migrate", "run `billing migrate` as the owner of the schema"))
    return [*found, *await _contents(session, situation.config.mode)]


def _server(session: Session, url: DatabaseUrl) -> CheckResult:
    version = session.get_server_version()
    tls = "TLS" if session.has_tls else "no TLS"
    pooler = "a pooler that shares sessions" if session.per_transaction is not None else "its own sessions"
    text = f"PostgreSQL {version.major}.{version.minor} at {url.address().hosts[0]}, {tls}, {pooler}"
    if version.major < _OLDEST_MAJOR:
        return failed(text, f"use PostgreSQL {_OLDEST_MAJOR} or newer")
    return ok(text)


def shared_sessions_finding(*, has_key: bool) -> CheckResult:
    """Says what cannot work behind a pooler that shares sessions, without a direct URL. `has_key`: of Stripe."""
    remedy = "set BILLING_DATABASE_DIRECT_URL to an address without a pooler: docs/operations.md, Postgres"
    if has_key:
        return failed("the pooler shares sessions: the daily reconciliation and audit can't run", remedy)
    return warning("the pooler shares sessions: commands such as replay and dead can't run", remedy)


def rights_finding(tables: Iterable[Mapping[str, Any]], prefix: str) -> CheckResult:
    """Compares this user's rights (rows of HELD) with those of the role for commands (sinks/postgres/roles.py)."""
    lacking = [
        f"{table['name']} ({', '.join(missing)})"
        for table in tables
        if (missing := [each for each in OPERATOR.needs(table["schema"], table["name"]) if each not in table["held"]])
    ]
    if not lacking:
        return ok("this user may do what the commands need")
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    return failed(
        f"this user lacks rights of {prefix}_{OPERATOR.name} on {', '.join(lacking[:5])}{more}",
        f"use a login in {prefix}_{OPERATOR.name} for commands: docs/security.md, Database roles",
    )


def _revision(found: str | None) -> CheckResult:
    newest = newest_revision()
    if found == newest:
        return ok(f"its tables are at revision {newest}")
    if found is None or is_known(found):
        return failed(f"its tables are at revision {found}, this version needs {newest}", "run `billing migrate`")
    remedy = "update this program: an older one works beside a newer database for one release only"
    return warning(f"its tables are at revision {found}, newer than this version's {newest}", remedy)


async def _contents(session: Session, mode: Mode) -> list[CheckResult]:
    """What the tables say. Called only with a schema of which at least these tables exist."""
    found = []
    recorded = await session.fetchval(_MODE)
    if recorded is not None and recorded is not mode.livemode:
        other = Mode.LIVE if recorded else Mode.TEST
        remedy = f"give {mode} mode its own database: docs/going-live.md"
        found.append(failed(f"it belongs to a system of {other} mode, and the config says {mode}", remedy))
    prices = await session.fetch(_UNKNOWN_PRICES)
    if prices:
        named = ", ".join(f"{row['price_id']} ({row['customers']})" for row in prices)
        remedy = "add them to [plans.NAME] prices, restart the workers, then `billing plans apply`"
        found.append(failed(f"customers pay prices that no plan names: {named}", remedy))
    if dead := await session.fetchval(_DEAD):
        found.append(warning(f"{dead} dead letters are open", "`billing dead ls`, then docs/runbook.md"))
    return found
