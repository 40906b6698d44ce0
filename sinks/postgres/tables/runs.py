"""The tables of the system itself: its mode, its migrations, and the runs of repairs and comparisons."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Date, DateTime, Identity, Index, Table
from sqlalchemy import text as sql

from sinks.postgres.columns import json, one_of, text, time
from sinks.postgres.tables.metadata import metadata

# One row, written by `billing migrate`: copies of a database have the same id.
database_identity = Table(
    "database_identity",
    metadata,
    text("database_id", key=True),
    Column("had_events", Boolean, nullable=False),
    time("created_at", null=False),
)

# The mode whose events the state rows come from: at most one row (sinks/postgres/mode_check.py).
system_mode = Table(
    "system_mode",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=sql("true")),
    Column("livemode", Boolean, nullable=False),
    CheckConstraint("is_only", name="is_only_row"),
)

# Whether nothing may leave the system: at most one row, the newest shadow period (sinks/postgres/shadow.py).
shadow = Table(
    "shadow",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=sql("true")),
    time("began_at", null=False),
    time("ended_at"),
    CheckConstraint("is_only", name="is_only_row"),
)

# The runs of `billing reconcile`, one row per run and account. Events created in [window_from, cursor) are done: a run
# that was killed resumes at the cursor. `scope` names the event types it was limited to, '' for all events.
reconciliations = Table(
    "reconciliations",
    metadata,
    Column("run_id", BigInteger, Identity(), primary_key=True),
    text("account", default=""),
    text("scope", default=""),
    time("started_at", null=False),
    time("ended_at"),
    time("window_from", null=False),
    time("window_until", null=False),
    time("cursor", null=False),
    json("counts"),
    text("last_error"),
    Index("reconciliations_account", "account", "scope", "started_at"),
)

# The runs of `billing audit`, one row per run and account. A run that was interrupted resumes at `cursor` of `phase`.
# `scope` is the window as it was asked for; `differences` is set at the end.
audits = Table(
    "audits",
    metadata,
    Column("run_id", BigInteger, Identity(), primary_key=True),
    text("account", default=""),
    text("scope", default=""),
    time("window_from", null=False),
    time("window_until", null=False),
    time("started_at", null=False),
    time("ended_at"),
    text("phase", default=""),
    text("cursor", default=""),
    json("counts"),
    json("totals"),
    Column("differences", BigInteger),
    text("last_error"),
    Index("audits_account", "account", "scope", "started_at"),
)

# What a run found. `fields` are [Stripe's value, the table's value] by name, `subject` is the object of an event.
audit_differences = Table(
    "audit_differences",
    metadata,
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    text("kind", key=True),
    text("object_id", key=True),
    text("subject", default=""),
    text("cause", null=False),
    text("repair", default=""),
    json("fields"),
)

# The objects that Stripe listed to a run, and what each adds to a total. Deleted when the run ends.
audit_objects = Table(
    "audit_objects",
    metadata,
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    text("kind", key=True),
    text("object_id", key=True),
    Column("day", Date),
    text("currency"),
    Column("amount", BigInteger),
    Column("ours", BigInteger),
)

# The newest import of each account (`billing import`). An interrupted one continues after the object `after` of
# `part`. `covers_until`: the first import that has ended and left nothing out began to read then, so its objects show
# what earlier events changed in them (recovery/imports/coverage.py).
imports = Table(
    "imports",
    metadata,
    text("account", key=True),
    time("since", null=False),
    time("started_at", null=False),
    time("ended_at"),
    time("covers_until"),
    text("part", default=""),
    text("after"),
    json("counts"),
    text("last_error"),
)

# In a database made by `billing rebuild`: the offsets of the log that it contains, {partition: [first, next]}.
rebuilds = Table(
    "rebuilds",
    metadata,
    Column("rebuild_id", BigInteger, Identity(), primary_key=True),
    text("topic", null=False),
    time("started_at", null=False),
    time("ended_at"),
    json("offsets"),
    json("counts"),
)

# The progress of data migrations (sinks/postgres/backfill.py). `after` is the key of the last row that is done.
backfills = Table(
    "backfills",
    metadata,
    text("name", key=True),
    time("started_at", null=False),
    json("after", null=True),
    Column("rows", BigInteger, nullable=False, server_default=sql("0")),
    time("done_at"),
)

# `begun`: an action outside Postgres has started (a replay); it ends as `done` or `failed`, unless it was killed.
AUDIT_OUTCOMES = ("begun", "done", "failed", "refused")

# Who did what to which data (sinks/postgres/audit_log.py). It outlives erasures, so it has ids and no personal data.
audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=sql("now()")),
    text("who", null=False),
    text("role", null=False),
    text("action", null=False),
    text("target", default=""),
    json("filter"),
    Column("count", BigInteger),
    text("outcome", null=False),
    text("reason"),
    text("peer"),
    Index("audit_log_at", "at"),
    Index("audit_log_target", "target", "at", postgresql_where=sql("target <> ''")),
    one_of("outcome", *AUDIT_OUTCOMES),
)
