"""Audits the books every BILLING_AUDIT_EVERY_S seconds (behaviours.md D11), and shows the newest result as metrics.

An audit begins after the reconciliation of the same day, which fetches what never arrived. If the books differ, the
next audit begins within an hour, so the alarm ends soon after the repair.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from prometheus_client import Counter, Gauge

from recovery.audit.audit import AnotherAudit, AuditAsked
from recovery.audit.results import Results, audit_results
from recovery.audit.wiring import auditor
from recovery.reconcile.runs import awaited_since, last_end
from recovery.stripe_lists import accounts_asked
from scheduler.repeated import RepeatedTask, TurnTaken
from sinks.postgres.pool import reading

AGAIN = timedelta(hours=1)
"""Pause after an audit that found differences."""
LOOK = timedelta(minutes=5)
"""How often the newest result is read: another scheduler or an operator may have audited."""
PATIENCE = timedelta(hours=2)
"""How long an audit that is due waits for a reconciliation."""
SETTLE_S = 120.0
"""Seconds before what differs is read again: a reconciliation may just have appended events."""

RUNS = Counter("billing_audit_runs", "Scheduled audits, by outcome", ["outcome"])
DIFFERENCES = Gauge("billing_audit_differences", "Differences that the newest audit of each account found")
LAST_END = Gauge(
    "billing_audit_last_end_seconds",
    "When the last audit ended (before the first: since when it is due), in epoch seconds",
)


class AuditSchedule(RepeatedTask):
    """Starts audits of the default window until cancelled."""

    name = "audit"
    runs = RUNS
    settle_s = SETTLE_S
    _waiting_since: datetime | None = None
    """Since when an audit that is due waits for a reconciliation."""

    async def time_left(self, jitter: timedelta) -> timedelta:
        async with reading(self.settings.database_url) as connection:
            results = await audit_results(connection)
            reconciled = await last_end(connection)
            awaited = await awaited_since(connection)
        now = self.clock()
        _show(results, awaited)
        due = awaited or now
        if results is not None:
            pause = min(AGAIN, self.every) if results.differences else self.every + jitter
            due = results.ended_at + pause
        if due > now:
            return min(due - now, LOOK)
        # What a reconciliation is going to fetch would be reported as differences.
        recently = timedelta(seconds=self.settings.reconcile_pause_s * 1.2)
        is_reconciled = not recently or (reconciled is not None and now - reconciled < recently)
        self._waiting_since = None if is_reconciled else self._waiting_since or now
        is_waiting = self._waiting_since is not None and now - self._waiting_since < PATIENCE
        return min(self.retry, LOOK) if is_waiting else timedelta(0)

    async def work(self) -> timedelta:
        async with auditor(self.settings, self.config, clock=self.clock) as wired:
            try:
                await wired.take_turn()
                accounts = await accounts_asked(wired.lists, [], all_accounts=self.has_connect)
                reports = await wired.run(AuditAsked(settle_s=self.settle_s), accounts, most=0)
            except AnotherAudit as error:
                raise TurnTaken(str(error)) from None
        if troubles := [report.trouble for report in reports if report.trouble]:
            return self.failed(f"{len(troubles)} of {len(reports)} accounts: {troubles[0]}")
        return self.done()


def _show(results: Results | None, awaited: datetime | None) -> None:
    if results is not None:
        LAST_END.set(results.ended_at.timestamp())
        DIFFERENCES.set(results.differences)
    elif awaited is not None:
        LAST_END.set(awaited.timestamp())  # so that the alarm also fires if there was never an audit
