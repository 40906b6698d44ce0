"""T31: each role may run the SQL of the modules that its process runs, which is read from the modules themselves.

EXPLAIN checks the privileges of a statement without its parameters. So a module that gets a statement on another table
fails here until its role has the privilege, and a new module with SQL fails until it says whose it is.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from pydantic import SecretStr

import analytics
import console
import eventlog
import gateway
import ops
import recovery
import scheduler
import sinks
import streams
from sinks.email.present import Query
from sinks.outbox.claims import claims_of
from sinks.postgres.outboxes import OUTBOXES
from tests.kits.rolekit import RoleDatabase, open_server

WORKER, DISPATCHER, SCHEDULER, GATEWAY = ("worker",), ("dispatcher",), ("scheduler",), ("gateway",)
CONSOLE, ANALYTICS, OPERATOR = ("console",), ("analytics",), ("operator",)
OWNER: tuple[str, ...] = ()
"""Whoever runs `billing migrate` or made the database of a rebuild."""

RUN_BY = {
    "ops.commands.shadow": OPERATOR,
    "ops.doctor.adoption_checks": OPERATOR,
    "ops.doctor.postgres_checks": OPERATOR,
    "recovery.audit.books": (*SCHEDULER, *OPERATOR),
    "recovery.audit.runs": (*SCHEDULER, *OPERATOR),
    "recovery.plans.customers": OPERATOR,
    "recovery.privacy.erasing": OPERATOR,
    "recovery.privacy.subjects": OPERATOR,
    "recovery.rebuild.comparison": OPERATOR,
    "recovery.rebuild.excuses": OPERATOR,
    "recovery.rebuild.runs": OWNER,
    "recovery.rebuild.suppressing_store": OWNER,
    "recovery.rehearsal.store": (*CONSOLE, *OPERATOR),
    "recovery.shadow.comparison": OPERATOR,
    "recovery.reconcile.objects": (*SCHEDULER, *OPERATOR),
    "recovery.reconcile.runs": (*SCHEDULER, *OPERATOR),
    "scheduler.due_timers": SCHEDULER,
    "sinks.email.outbox": DISPATCHER,
    "sinks.email.present": DISPATCHER,
    "sinks.email.unsubscribe": GATEWAY,
    "sinks.exports.orders": (*DISPATCHER, *OPERATOR),
    "sinks.exports.orders._FIND": GATEWAY,
    "sinks.feed.receivers": (*DISPATCHER, *OPERATOR),
    "sinks.outbox.outages": (*DISPATCHER, *OPERATOR),
    "sinks.outbox.setback": DISPATCHER,
    "sinks.postgres.access_backfill": OWNER,
    "sinks.postgres.audit_log": (*WORKER, *DISPATCHER, *SCHEDULER, *CONSOLE, *OPERATOR),
    "sinks.postgres.backfill": OWNER,
    "sinks.postgres.backfill._STATE": (*WORKER, *OPERATOR),
    "sinks.postgres.backfill._NAMES": (*WORKER, *OPERATOR),
    "sinks.postgres.erasure": (*WORKER, *OPERATOR),
    "sinks.postgres.gauges": DISPATCHER,
    "sinks.postgres.imports": OPERATOR,
    "sinks.postgres.lists.checks": (*CONSOLE, *OPERATOR, "reader"),
    "sinks.postgres.lists.find": (*CONSOLE, *OPERATOR, "reader"),
    "sinks.postgres.loading": WORKER,
    "sinks.postgres.mode_check": (*WORKER, *DISPATCHER, *SCHEDULER, *CONSOLE, *OPERATOR),
    "sinks.postgres.new_tables": WORKER,
    "sinks.postgres.ownership": (*WORKER, *OPERATOR),
    "sinks.postgres.payment_backfill": (*WORKER, *OPERATOR),
    "sinks.postgres.personal_data": (*WORKER, *DISPATCHER, *OPERATOR),
    "sinks.postgres.positions": WORKER,
    "sinks.postgres.positions._GAP": (*SCHEDULER, *OPERATOR),
    "sinks.postgres.positions._GAP_REPAIRED": (*SCHEDULER, *OPERATOR),
    "sinks.postgres.positions._IDENTIFY": OWNER,
    "sinks.postgres.prune": SCHEDULER,
    "sinks.postgres.schema_check": (*WORKER, *DISPATCHER, *SCHEDULER, *CONSOLE, *ANALYTICS, *OPERATOR),
    "sinks.postgres.shadow": (*DISPATCHER, *OPERATOR),
    "sinks.postgres.store": WORKER,
    "sinks.postgres.users_backfill": OWNER,
}
"""By module, or by module and constant, the roles that run its statements."""

PARTS = {
    "recovery.shadow.comparison._CUSTOMERS",
    "sinks.postgres.ownership._KEEP",
    "sinks.postgres.ownership.NOTE_OBJECTS",
}
"""Templates and parts of statements."""

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b[\s\S]*\bbilling\.")


@pytest.fixture
async def server(database: SecretStr) -> AsyncIterator[RoleDatabase]:
    async with open_server(database) as opened:
        yield opened


def _statements() -> Iterator[tuple[str, str, str]]:
    """Yields module, name and text of each constant with SQL."""
    for package in (analytics, console, eventlog, gateway, ops, recovery, scheduler, sinks, streams):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations" in found.name:
                continue
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
                for one in values:
                    text = one.statement if isinstance(one, Query) else one
                    if isinstance(text, str) and _STATEMENT.match(text):
                        yield found.name, name, text


async def test_T31_each_role_may_run_the_statements_of_its_modules(server: RoleDatabase) -> None:
    found = list(_statements())
    names = {module for module, _, _ in found} | {f"{module}.{name}" for module, name, _ in found}
    assert {module for module, _, _ in found} - RUN_BY.keys() == set(), "say which process runs it"
    assert RUN_BY.keys() - names == set()
    refused, parts = {}, set()
    for module, name, statement in found:
        for role in RUN_BY.get(f"{module}.{name}", RUN_BY[module]):
            try:
                if refusal := await _refusal(server, role, statement):
                    refused[f"{role}: {module}.{name}"] = refusal
            except (asyncpg.PostgresSyntaxError, asyncpg.UndefinedTableError):
                parts.add(f"{module}.{name}")
    assert refused == {}
    assert parts == PARTS


async def test_T31_dispatcher_operator_and_console_may_use_each_outbox(server: RoleDatabase) -> None:
    for outbox in OUTBOXES:
        sql = claims_of(outbox)._sql
        repairs = [sql.list, sql.count, sql.depth, sql.requeue, sql.discard]
        work = [
            sql.has_due,
            sql.claim,
            sql.retry,
            sql.give_back,
            sql.done(None, ()),
            sql.closed("withheld", ()),
            sql.held(()),
        ]
        wanted = {"dispatcher": [*work, *repairs], "operator": repairs, "console": repairs}
        for role, statements in wanted.items():
            for statement in statements:
                assert not await _refusal(server, role, statement), f"{role}: {outbox.name}: {statement}"


async def _refusal(server: RoleDatabase, role: str, statement: str) -> str:
    statement = re.sub(r"(?<!:):[a-z]\w*", "NULL", statement)  # SQLAlchemy's parameters
    return await server.run(role, f"EXPLAIN (GENERIC_PLAN) {statement}")
