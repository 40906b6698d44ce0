"""Runs a reconciliation every BILLING_RECONCILE_EVERY_S seconds (behaviours.md D7). It uses its own connections."""

from __future__ import annotations

from datetime import timedelta

import structlog
from prometheus_client import Counter, Gauge

from recovery.reconcile.events import AnotherIsAtIt, ReconcileRequest
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import awaited_since, last_end
from recovery.reconcile.wiring import reconciler
from recovery.stripe_lists import accounts_asked
from recovery.window import DEFAULT
from scheduler.repeated import RepeatedTask, TurnTaken
from sinks.postgres.audit_log import ActorRole, AuditEntry
from sinks.postgres.audited import recorded
from sinks.postgres.pool import reading
from sinks.postgres.positions import gap_of, gap_repaired

log = structlog.get_logger(__name__)

BEFORE_GAP = timedelta(days=3)
"""An event may have been created this long before it was received: Stripe retries for three days."""

MISSING = Counter("billing_reconcile_missing", "Events that never arrived until a scheduled reconciliation found them")
RUNS = Counter("billing_reconcile_runs", "Scheduled reconciliations, by outcome", ["outcome"])
LAST_END = Gauge(
    "billing_reconcile_last_end_seconds",
    "When the last reconciliation ended (before the first: since when it is due), in epoch seconds",
)


class ReconcileSchedule(RepeatedTask):
    """Starts reconciliations until cancelled. What Kafka deleted before it was read is fetched within a minute."""

    name = "reconcile"
    runs = RUNS
    look = timedelta(minutes=1)

    async def time_left(self, jitter: timedelta) -> timedelta:
        async with reading(self.settings.database_url) as connection:
            ended = await last_end(connection)
            if ended is None and (since := await awaited_since(connection)) is not None:
                LAST_END.set(since.timestamp())  # so that the alarm also fires if there was never a run
        if ended is None or await gap_of(self.settings.database_url) is not None:
            return timedelta(0)
        LAST_END.set(ended.timestamp())
        return ended + self.every + jitter - self.clock()

    async def work(self) -> timedelta:
        asked, gap = ReconcileRequest(), await gap_of(self.settings.database_url)
        if gap is not None:
            log.warning("reconcile.gap", action="reconcile.gap", since=gap.since.isoformat())
            asked = ReconcileRequest(since=min(gap.since - BEFORE_GAP, self.clock() - DEFAULT), joins_on=True)
        async with reconciler(self.settings, self.config, clock=self.clock) as wired:
            try:
                await wired.take_turn(asked)
            except AnotherIsAtIt as error:
                raise TurnTaken(str(error)) from None
            accounts = await accounts_asked(wired.lists, [], all_accounts=self.has_connect)
            entry = AuditEntry(
                who="schedule", role=ActorRole.SCHEDULE, action="reconcile", filter={"accounts": accounts}
            )
            try:
                async with recorded(self.settings.database_url, entry, refused=(AnotherIsAtIt,)) as noted:
                    reports = await wired.run(asked, accounts)
                    noted.count = sum(report.fed for report in reports)
                    noted.trouble = next((report.trouble for report in reports if report.trouble), None)
            except AnotherIsAtIt as error:
                raise TurnTaken(str(error)) from None
        left = self._note(reports)
        if gap is not None and not any(report.trouble for report in reports):
            await gap_repaired(self.settings.database_url, gap)
        return left

    def _note(self, reports: list[ReconcileReport]) -> timedelta:
        MISSING.inc(sum(report.fed for report in reports))
        if troubles := [report.trouble for report in reports if report.trouble]:
            return self.failed(f"{len(troubles)} of {len(reports)} accounts: {troubles[0]}")
        return self.done()
