"""The tables of the operator's console: who is signed in, and what people did."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Index, Table
from sqlalchemy import text as sql

from sinks.postgres.columns import json, one_of, text, time
from sinks.postgres.tables.metadata import metadata

# Who is signed in, and links that sign in once (sinks/postgres/console_sessions.py).
console_sessions = Table(
    "console_sessions",
    metadata,
    text("token_digest", key=True),
    text("kind", null=False),
    text("who", null=False),
    text("role", null=False),
    Column("begun_at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    time("expires_at", null=False),
    time("used_at"),
    Index("console_sessions_expires", "expires_at"),
    one_of("kind", "link", "session"),
)

# One row per confirmed form. `action_key` comes from the form, so a second click finds the first one's row. A long
# action is a job: it keeps its progress here, and continues after a restart. `owner` is the run that works on it: only
# the owner changes the row, so a console that lost the job stops.
console_actions = Table(
    "console_actions",
    metadata,
    text("action_key", key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    text("who", null=False),
    text("role", null=False),
    text("action", null=False),
    text("target", default=""),
    json("filter"),
    text("reason"),
    text("status", default="running"),
    text("wanted", default="run"),
    Column("total", BigInteger),
    Column("done", BigInteger, nullable=False, server_default=sql("0")),
    json("result"),
    text("note"),
    Column("audit_entry", BigInteger),
    text("owner"),
    time("seen_at"),
    time("ended_at"),
    Index("console_actions_at", "at"),
    Index("console_actions_running", "at", postgresql_where=sql("ended_at IS NULL")),
    one_of("status", "running", "paused", "stopped", "done", "failed"),
    one_of("wanted", "run", "pause", "stop"),
)
