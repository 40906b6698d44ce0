"""Runs a reconciliation every BILLING_RECONCILE_EVERY_S seconds (behaviours.md D7). It uses its own connections."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import Counter, Gauge

from recovery.reconcile.events import AnotherIsAtIt, Asked
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import awaited_since, last_end
from recovery.reconcile.wiring import reconciler
from recovery.stripe_lists import accounts_asked
from scheduler.repeated import RepeatedTask, TurnTaken
from sinks.postgres.audit_log import AuditEntry, Role
from sinks.postgres.audited import recorded
from sinks.postgres.pool import reading

MISSING = Counter("billing_reconcile_missing", "Events that never arrived until a scheduled reconciliation found them")
RUNS = Counter("billing_reconcile_runs", "Scheduled reconciliations, by outcome", ["outcome"])
LAST_END = Gauge(
    "billing_reconcile_last_end_seconds",
    "When the last reconciliation ended (before the first: since when it is due), in epoch seconds",
)


class ReconcileSchedule(RepeatedTask):
    """Starts reconciliations until cancelled."""

    name = "reconcile"
    runs = RUNS

    async def time_left(self, jitter: timedelta) -> timedelta:
        async with reading(self.settings.database_url) as connection:
            ended = await last_end(connection)
            if ended is None and (since := await awaited_since(connection)) is not None:
                LAST_END.set(since.timestamp())  # so that the alarm also fires if there was never a run
        if ended is None:
            return timedelta(0)
        LAST_END.set(ended.timestamp())
        return ended + self.every + jitter - self.clock()

    async def work(self) -> timedelta:
        async with reconciler(self.settings, self.config, clock=self.clock) as wired:
            accounts = await accounts_asked(wired.lists, [], all_accounts=self.has_connect)
            entry = AuditEntry(who="schedule", role=Role.SCHEDULE, action="reconcile", filter={"accounts": accounts})
            try:
                async with recorded(self.settings.database_url, entry, refused=(AnotherIsAtIt,)) as noted:
                    reports = await wired.run(Asked(), accounts)
                    noted.count = sum(report.fed for report in reports)
                    noted.trouble = next((report.trouble for report in reports if report.trouble), None)
            except AnotherIsAtIt as error:
                raise TurnTaken(str(error)) from None
        return self._note(reports)

    def _note(self, reports: list[ReconcileReport]) -> timedelta:
        MISSING.inc(sum(report.fed for report in reports))
        if troubles := [report.trouble for report in reports if report.trouble]:
            return self.failed(f"{len(troubles)} of {len(reports)} accounts: {troubles[0]}")
        return self.done()
