"""A process starts its work only on a schema that its code can use, and says what to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from local.stack.ports import free_port
from ops.cli import command_line
from schemas.settings import InvalidSettings
from sinks.postgres import schema_check
from sinks.postgres.migration import Migrated, migrate
from sinks.postgres.revisions import newest_revision
from sinks.postgres.schema_check import SchemaCheck
from tests.kits.storekit import ask
from tests.waiting import eventually


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The number of times that a check has looked at the schema. It does so without a pause worth mentioning."""
    look, count = SchemaCheck._look, 0

    async def counted(check: SchemaCheck) -> str | None:
        nonlocal count
        try:
            return await look(check)
        finally:
            count += 1

    monkeypatch.setattr(SchemaCheck, "_look", counted)
    monkeypatch.setattr(schema_check, "_POLL_S", 0.01)
    return lambda: count


async def test_it_waits_for_an_older_schema_and_continues_after_migrate(
    database_url: str, looks: Callable[[], int]
) -> None:
    url = SecretStr(database_url)
    check, stopping = SchemaCheck(url), asyncio.Event()
    with capture_logs() as logs:
        waiting = asyncio.create_task(check.until_ready(stopping))
        await eventually(lambda: looks() > 3, "some looks")
        assert not waiting.done()
        assert "run billing migrate" in str(check.trouble())
        await migrate(url)
        await asyncio.wait_for(waiting, 30)
    assert check.trouble() is None
    assert [entry["action"] for entry in logs if entry["action"].startswith(("schema", "database"))] == [
        "schema.waiting",  # one line, not one for each look
        "database.connected",
    ]


async def test_one_revision_behind_is_named(database: SecretStr, looks: Callable[[], int]) -> None:
    behind = f"{int(newest_revision()) - 1:04}"
    await ask(database, "UPDATE billing.alembic_version SET version_num = $1", behind)
    check, stopping = SchemaCheck(database), asyncio.Event()
    waiting = asyncio.create_task(check.until_ready(stopping))
    await eventually(lambda: looks() > 1, "two looks")
    wanted = f"the database is at revision {behind}, this version needs {newest_revision()}: run billing migrate"
    assert check.trouble() == wanted
    stopping.set()
    await asyncio.wait_for(waiting, 30)


async def test_a_newer_schema_is_reported_and_used(database: SecretStr) -> None:
    """Old processes continue while a newer version is deployed, and after a rollback."""
    await ask(database, "UPDATE billing.alembic_version SET version_num = '9999'")
    check = SchemaCheck(database)
    with capture_logs() as logs:
        await asyncio.wait_for(check.until_ready(asyncio.Event()), 30)
    assert check.trouble() is None
    assert [entry["event"] for entry in logs if entry["action"] == "schema.newer"] == [
        f"the database is at revision 9999, newer than this version's {newest_revision()}"
    ]


async def test_migrate_of_the_older_version_changes_nothing(
    database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback it is run by the compose file, the chart and `billing up`, before the processes."""
    await ask(database, "UPDATE billing.alembic_version SET version_num = '9999'")
    await ask(database, "DELETE FROM billing.backfills")
    assert await migrate(database) == Migrated("9999", "9999")
    assert await ask(database, "SELECT count(*) FROM billing.backfills") == 0
    monkeypatch.setenv("BILLING_DATABASE_URL", database.get_secret_value())
    done = await asyncio.to_thread(CliRunner().invoke, command_line(["migrate"]), ["migrate"])
    assert (done.exit_code, "newer than this version's" in done.stdout) == (0, True), done.output


async def test_it_waits_through_an_outage(looks: Callable[[], int]) -> None:
    check, stopping = SchemaCheck(SecretStr(f"postgresql://billing@127.0.0.1:{free_port()}/x")), asyncio.Event()
    waiting = asyncio.create_task(check.until_ready(stopping))
    await eventually(lambda: looks() > 1, "two looks")
    assert str(check.trouble()).startswith("cannot read the schema's revision")
    stopping.set()
    await asyncio.wait_for(waiting, 30)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_start_without_the_demanded_tls_ends(database_url: str, mode: str) -> None:
    """The tests' server has no TLS."""
    check = SchemaCheck(SecretStr(f"{database_url}?sslmode={mode}"))
    with pytest.raises(
        InvalidSettings, match=r"^BILLING_DATABASE_URL: (no TLS connection|root certificate)"
    ) as refused:
        await asyncio.wait_for(check.until_ready(asyncio.Event()), 30)
    assert "\n" not in str(refused.value)
