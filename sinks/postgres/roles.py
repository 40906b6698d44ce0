"""The database roles: one for each process, with the statements that it needs and no others.

They are groups without a login; an installation makes a login for each process and adds it to its group
(docs/security.md). Their names begin with BILLING_ROLE_PREFIX, since roles are those of the whole server.
Whoever runs `billing migrate` owns the tables. No process needs that right, and none a superuser's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sinks.postgres import tables
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.pool import Session
from sinks.postgres.prune import STEPS

SELECT, INSERT, UPDATE, DELETE = "SELECT", "INSERT", "UPDATE", "DELETE"

ALL = (SELECT, INSERT, UPDATE, DELETE)

_NOBODYS = {"alembic_version", "database_identity", "audit_log"}
"""Tables that only the owner changes, or that nothing is deleted from."""


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """A group of the database. `name` follows the prefix. `reads_all` adds SELECT on every table of `billing`."""

    name: str
    purpose: str
    reads_all: bool = False
    writes_all: bool = False
    figures: tuple[str, ...] = ()
    """Privileges on each table of the schema `analytics`."""
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def privileges(self, table: str) -> tuple[str, ...]:
        """Returns the privileges on a table of the schema `billing`, in a fixed order."""
        given = {*self.tables.get(table, ())}
        given |= {SELECT} if self.reads_all else set()
        given |= {*ALL} if self.writes_all and table not in _NOBODYS else set()
        return tuple(privilege for privilege in ALL if privilege in given)

    def needs(self, schema: str, table: str) -> tuple[str, ...]:
        """Returns the privileges on a table of either schema."""
        return self.privileges(table) if schema == "billing" else self.figures


_START = {"alembic_version": (SELECT,), "system_mode": (SELECT, INSERT, UPDATE), "shadow": (SELECT,)}
"""What each process reads: the revision, the mode, which the first start notes, and whether anything may leave."""

_NOT_THE_WORKERS = {
    "alembic_version",
    "audit_log",
    "audits",
    "audit_differences",
    "audit_objects",
    "backfills",
    "console_actions",
    "console_sessions",
    "database_identity",
    "feed_destinations",
    "imports",
    "outages",
    "rebuilds",
    "reconciliations",
    "shadow",
}

_SENT = (SELECT, INSERT, UPDATE)
_NOTED = {"audit_log": (SELECT, INSERT, UPDATE)}
"""Each action's row, which no process can delete. Of its columns only those in UPDATED can be changed."""

UPDATED: Mapping[str, tuple[str, ...]] = {
    "audit_log": ("outcome", "count", "reason"),
    "console_actions": (
        *("status", "wanted", "total", "done", "result", "note", "owner", "seen_at", "ended_at", "audit_entry"),
    ),
}
"""Tables of which UPDATE covers these columns only: how an action ended is added; who did what, and when, stays."""

_PRUNED = {step.table: (SELECT, UPDATE, DELETE) if step.key == "ctid" else (SELECT, UPDATE) for step in STEPS} | {
    "object_owners": (SELECT, INSERT, UPDATE),
    "event_objects": (SELECT, INSERT, DELETE),
}
"""What `billing prune` needs: whole rows are deleted by their place, contents by key."""

OPERATOR = DatabaseRole(
    "operator", "the other commands of billing", reads_all=True, writes_all=True, figures=ALL, tables=_NOTED
)

ROLES = (
    DatabaseRole(
        "worker",
        "billing worker",
        reads_all=True,
        tables=_START
        | _NOTED
        | {table.name: ALL for table in tables.metadata.sorted_tables if table.name not in _NOT_THE_WORKERS},
    ),
    DatabaseRole(
        "dispatcher",
        "billing dispatcher: reads what mails and exports contain, and marks what it has sent",
        reads_all=True,
        tables=_START
        | _NOTED
        | {"outages": ALL, "feed_destinations": _SENT, "shadow": _SENT}
        | {outbox.name: _SENT for outbox in OUTBOXES},
    ),
    DatabaseRole(
        "scheduler",
        "billing scheduler: timers, reconciliation, audits, replay of failed events, and pruning",
        tables=_PRUNED
        | _START
        | _NOTED
        | {
            "positions": (SELECT, UPDATE),
            "database_identity": (SELECT,),  # since when a first reconciliation or audit is due
            "reconciliations": ALL,
            "imports": (SELECT,),  # which events an import covers
            # `billing audit` compares these with Stripe.
            "subscriptions": (SELECT,),
            "payments": (SELECT,),
            "payment_links": (SELECT,),
            "payment_methods": (SELECT,),
            "audits": ALL,
            "audit_differences": ALL,
            "audit_objects": ALL,
            # What people ask for in the console: their progress is noted, see UPDATED. Old ones are pruned.
            "console_actions": (SELECT, UPDATE, DELETE),
        },
    ),
    DatabaseRole(
        "gateway",
        "billing gateway: the links in mails",
        tables={"exports": (SELECT,), "unsubscribed": (INSERT,), "shadow": (SELECT,)},
    ),
    DatabaseRole(
        "console",
        "billing console: reads everything, and repairs what a person confirms",
        reads_all=True,
        figures=(SELECT,),
        tables=_START
        | _NOTED
        | {"console_sessions": ALL, "console_actions": (SELECT, INSERT, UPDATE)}
        | dict.fromkeys(("dead_letters", "brakes", "timers", *(outbox.name for outbox in OUTBOXES)), (SELECT, UPDATE)),
    ),
    DatabaseRole(
        "analytics", "billing analytics", figures=ALL, tables={"alembic_version": (SELECT,), "shadow": (SELECT,)}
    ),
    OPERATOR,
    DatabaseRole("reader", "dashboards and questions", reads_all=True, figures=(SELECT,)),
)

_EXISTING = "SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[])"
_RELATIONS = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'v') ORDER BY 1, 2
"""
_SCHEMAS = ("billing", "analytics")


async def grant(session: Session, prefix: str, *, creates: bool) -> list[str]:
    """Gives each role exactly its privileges on all tables, in one transaction. Returns the names of the roles.

    Without `creates`, roles that do not exist are left out: so a migration also grants its new tables where an
    installation uses the roles. Creating one needs the attribute CREATEROLE.
    """
    named = {f"{prefix}_{role.name}": role for role in ROLES}
    existing = {row["rolname"] for row in await session.fetch(_EXISTING, list(named))}
    if creates:
        for name in named.keys() - existing:
            await session.execute(f'CREATE ROLE "{name}" NOLOGIN')
        existing = set(named)
    granted = {name: role for name, role in named.items() if name in existing}
    if not granted:
        return []
    relations = await session.fetch(_RELATIONS, list(_SCHEMAS))
    statements = ["BEGIN"]
    for name, role in granted.items():
        for schema in _SCHEMAS:
            statements.append(f'REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM "{name}"')
            if schema == "billing" or role.figures:
                statements.append(f'GRANT USAGE ON SCHEMA {schema} TO "{name}"')
        for relation in relations:
            schema, table = relation["schema"], relation["name"]
            if given := role.needs(schema, table):
                privileges = ", ".join(_of_columns(each, schema, table) for each in given)
                statements.append(f'GRANT {privileges} ON {schema}."{table}" TO "{name}"')
    await session.execute(";\n".join([*statements, "COMMIT"]))
    return list(granted)


def _of_columns(privilege: str, schema: str, table: str) -> str:
    columns = UPDATED.get(table, ()) if (schema, privilege) == ("billing", UPDATE) else ()
    return f"{privilege} ({', '.join(columns)})" if columns else privilege
