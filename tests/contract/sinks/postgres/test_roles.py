"""T31: each process has a database role with the statements that it needs, and is refused all others."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from ops.doctor.findings import Status, ok
from ops.doctor.postgres_checks import HELD, rights_finding
from sinks.postgres import tables
from sinks.postgres.migration import migrate
from sinks.postgres.prune import STEPS
from sinks.postgres.roles import ROLES, UPDATED
from tests.kits.rolekit import RoleDatabase, open_server


@pytest.fixture
async def server(database: SecretStr) -> AsyncIterator[RoleDatabase]:
    async with open_server(database) as opened:
        yield opened


_ALLOWED = {
    "worker": [
        "SELECT * FROM billing.customers FOR UPDATE",
        "INSERT INTO billing.unsubscribed (account, customer_id, template, at) VALUES ('', 'cus_1', 'welcome', now())",
        "DELETE FROM billing.timers",
        "SELECT * FROM billing.database_identity",
        "SELECT * FROM billing.access",
    ],
    "dispatcher": ["UPDATE billing.emails SET attempts = 1", "SELECT * FROM billing.payments"],
    "scheduler": [
        "UPDATE billing.timers SET status = 'done'",
        "UPDATE billing.console_actions SET status = 'done', wanted = 'stop', total = 1, done = 1, result = '{}', "
        "note = '', owner = 'x', seen_at = now(), ended_at = now(), audit_entry = 1",
        "SELECT * FROM billing.events",
        "SELECT * FROM billing.database_identity",
        *(step.batch.replace("$1", "'1 day'") for step in STEPS),
        *(work.replace("$1", "'{}'") for step in STEPS for work in step.work),
    ],
    "gateway": [
        "SELECT * FROM billing.exports",
        "INSERT INTO billing.unsubscribed (account, customer_id, template, at) VALUES ('', 'cus_1', 'welcome', now()) "
        "ON CONFLICT DO NOTHING",
    ],
    "analytics": ["DELETE FROM analytics.facts"],
    "operator": ["UPDATE billing.dead_letters SET status = 'discarded'"],
    "console": [
        "SELECT * FROM billing.customers",
        "SELECT * FROM analytics.facts",
        "UPDATE billing.dead_letters SET status = 'discarded'",
        "UPDATE billing.emails SET attempts = 1",
        "DELETE FROM billing.console_sessions",
    ],
    "reader": ["SELECT * FROM billing.customers", "SELECT * FROM billing.access", "SELECT * FROM analytics.facts"],
}
_REFUSED = {
    "worker": [
        "DELETE FROM billing.audit_log",
        "DROP TABLE billing.events",
        "SELECT * FROM analytics.facts",
        "UPDATE billing.feed_destinations SET disabled_at = NULL",
    ],
    "dispatcher": [
        "UPDATE billing.customers SET email = 'a@b.example'",
        "INSERT INTO billing.events (event_id) VALUES ('e')",
        "DELETE FROM billing.feed_destinations",
    ],
    "scheduler": ["SELECT email FROM billing.customers", "DELETE FROM billing.timers", "DELETE FROM billing.emails"],
    "gateway": [
        "SELECT * FROM billing.customers",
        "SELECT * FROM billing.unsubscribed",
        "DELETE FROM billing.unsubscribed",
        "UPDATE billing.exports SET status = 'deleted'",
        "SELECT payload FROM billing.events",
    ],
    "analytics": ["SELECT * FROM billing.customers"],
    "console": [
        "UPDATE billing.customers SET email = 'a@b.example'",
        "UPDATE billing.events SET payload = NULL",
        "DELETE FROM billing.audit_log",
        "DELETE FROM billing.dead_letters",
    ],
    "operator": ["ALTER TABLE billing.events ADD COLUMN x int", "CREATE TABLE billing.x (x int)"],
    "reader": ["UPDATE billing.customers SET email = NULL", "DELETE FROM billing.events"],
}
_NEVER = [
    *(
        f"UPDATE billing.audit_log SET {column.name} = {column.name}"
        for column in tables.audit_log.columns
        if column.name not in ("outcome", "count", "reason")
    ),
    *(
        f"UPDATE billing.console_actions SET {column} = {column}"
        for column in ("action_key", "at", "who", "role", "action", "target", "filter", "reason")
    ),
    "DELETE FROM billing.audit_log",
    "CREATE TABLE billing.mine (x int)",
    "TRUNCATE billing.events",
    "UPDATE billing.alembic_version SET version_num = '0001'",
    "DELETE FROM billing.database_identity",
    "COPY billing.events TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/passwd')",
]


async def test_T31_each_role_may_do_its_work_and_nothing_else(server: RoleDatabase) -> None:
    assert _ALLOWED.keys() == _REFUSED.keys() == {role.name for role in ROLES}
    for role, statements in _ALLOWED.items():
        for statement in statements:
            assert not (refusal := await server.run(role, statement)), f"{role}: {statement}: {refusal}"
    for role, statements in _REFUSED.items():
        for statement in [*statements, *_NEVER]:
            assert await server.run(role, statement), f"{role} may {statement}"


async def test_T31_a_role_that_acts_notes_how_it_ended_and_never_who_did_it(
    server: RoleDatabase, database: SecretStr
) -> None:
    acting = [role.name for role in ROLES if "UPDATE" in role.privileges("audit_log")]
    assert acting == ["worker", "dispatcher", "scheduler", "console", "operator"]
    ended = ", ".join(f"{column} = {column}" for column in UPDATED["audit_log"])
    await server.connection.execute(f'GRANT UPDATE (who) ON billing.audit_log TO "{server.prefix}_worker"')
    assert not await server.run("worker", "UPDATE billing.audit_log SET who = 'another'")
    await migrate(database, role_prefix=server.prefix)
    for role in acting:
        assert not await server.run(role, f"UPDATE billing.audit_log SET {ended}")
        assert await server.run(role, "UPDATE billing.audit_log SET who = 'another'")


async def test_T31_doctor_asks_for_the_rights_of_the_operator_and_no_more(server: RoleDatabase) -> None:
    for role in ROLES:
        async with server.connection.transaction():
            await server.connection.execute(f'SET LOCAL ROLE "{server.prefix}_{role.name}"')
            found = rights_finding(map(dict, await server.connection.fetch(HELD)), server.prefix)
        if role.name == "operator":
            assert found == ok("this user may do what the commands need")
        else:
            assert found.status is Status.FAILED
            assert f"use a login in {server.prefix}_operator" in found.remedy
            assert "GRANT" not in found.remedy
    async with server.connection.transaction():
        name = f"{server.prefix}_operator"
        await server.connection.execute(f'REVOKE UPDATE ON billing.emails, analytics.facts FROM "{name}"')
        await server.connection.execute(f'SET LOCAL ROLE "{name}"')
        found = rights_finding(map(dict, await server.connection.fetch(HELD)), server.prefix)
        assert found.text == f"this user lacks rights of {name} on emails (UPDATE), facts (UPDATE)"


async def test_T31_the_roles_name_every_table(server: RoleDatabase) -> None:
    rows = await server.connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'billing'::regnamespace"
    )
    known = {table.name for table in tables.metadata.sorted_tables} | {"alembic_version"}
    assert {row["relname"] for row in rows} == known
    for role in ROLES:
        assert set(role.tables) <= known, f"{role.name} names a table that does not exist"


async def test_T31_a_later_migration_grants_new_tables_and_takes_back_what_was_granted_by_hand(
    server: RoleDatabase, database: SecretStr
) -> None:
    await server.connection.execute(f'REVOKE SELECT ON billing.exports FROM "{server.prefix}_gateway"')
    await server.connection.execute(f'GRANT SELECT ON billing.customers TO "{server.prefix}_gateway"')
    assert await server.run("gateway", "SELECT * FROM billing.exports")

    migrated = await migrate(database, role_prefix=server.prefix)

    assert len(migrated.roles) == len(ROLES)
    assert not await server.run("gateway", "SELECT * FROM billing.exports")
    assert await server.run("gateway", "SELECT * FROM billing.customers")


async def test_T31_without_roles_a_migration_grants_nothing(database: SecretStr) -> None:
    assert (await migrate(database, role_prefix=f"t{uuid.uuid4().hex[:10]}")).roles == []
