"""Which commands act on data, and the entry of the audit log that each of them writes.

A test compares the three groups with the table of commands, so that a new command has to be in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.runtime.operator import operator
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.outboxes import OUTBOXES

ACTING: Mapping[str, str] = {
    "dead replay": "dead.replay",
    "dead discard": "dead.discard",
    "replay": "replay",
    "brake release": "brake.release",
    **{f"{outbox.command} requeue": f"{outbox.command}.requeue" for outbox in OUTBOXES},
    "mail discard": "mail.discard",
    "exports revoke": "exports.revoke",
    "feed enable": "feed.enable",
    "console link": "console.link",
    "reconcile": "reconcile",
    "plans apply": "plans.apply",
    "import": "import",
    "shadow begin": "shadow.begin",
    "shadow end": "shadow.end",
    "rebuild": "rebuild",
    "diff": "diff",
    "adopt": "adopt",
    "erase": "customer.erase",
    "export": "customer.export",
    "prune": "prune",
    "topics": "topics.repartition",
    "analytics recount": "analytics.forget",
}
"""Command → action in the audit log. `diff` changes nothing: its entry is its result. Of the last two only
`--repartition` and `--forget` act."""

READING = frozenset(
    {
        *("config", "config check", "refusals"),
        *("event", "customer", "find", "status", "doctor", "mrr", "tap", "contract", "audit", "bench"),
        *("dead ls", "dead show", "brake ls", "mail show", "mail preview"),
        *(f"{outbox.command} ls" for outbox in OUTBOXES),
        *("plans check", "shadow report", "feed status", "feed secret", "console hash-password"),
        *("plugin ls", "plugin test"),
    }
)
"""They change nothing. `audit` stores only its own runs."""

RUNNING = frozenset(
    {
        *("up", "down", "demo", "gateway", "worker", "dispatcher", "scheduler", "analytics"),
        *("migrate", "trigger", "simulate", "console"),
    }
)
"""Processes, their set-up, and events as Stripe would send them: the log and the ledger have those."""


def entry_for(
    command: str,
    by: str | None = None,
    *,
    target: str = "",
    filter: Mapping[str, Any] | None = None,  # the column's name
) -> AuditEntry:
    """Returns the entry of a command that acts. `by` is the name that the operator gave, else the system user."""
    return AuditEntry(who=by or operator(), action=ACTING[command], target=target, filter=filter or {})


def keys_or_all(keys: list[str] | None, **chosen: Any) -> dict[str, Any]:
    """Returns the filter of a command that takes keys, or --all with options."""
    return {"keys": keys} if keys else {"all": True, **chosen}
