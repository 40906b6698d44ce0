"""`billing scheduler`: the process that appends due timers to the log."""

from __future__ import annotations

import typer

from ops.commands.terminal import settings_and_config
from ops.processes.scheduler import run
from ops.processes.skeleton import run_process


def scheduler() -> None:
    """Append due timers to the log: reminders, dunning steps, waiting events.

    Example: billing scheduler

    With BILLING_RECONCILE_EVERY_S it also looks for missed events at Stripe at that interval (billing reconcile).
    With BILLING_AUDIT_EVERY_S it also compares the tables with Stripe (billing audit).
    With BILLING_RETRY_FAILED_EVERY_S it also replays events that failed within a day (billing replay --failed).

    Several schedulers may run at once: they take turns. On SIGTERM it finishes its present turn and exits 0. Exits 1 if
    the ops port is in use, 2 if a setting is invalid, 70 if it is stuck.
    """
    settings, config = settings_and_config("scheduler")
    raise typer.Exit(run_process("scheduler", lambda: run(settings, config)))
