"""Runs reconciliations and audits that people asked for in the console. One at a time, and beside the schedules.

A job that no process works on is taken within seconds. It continues where it stopped if the scheduler ends: the runs of
`billing reconcile` and `billing audit` keep their own place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from recovery.audit import wiring as auditing
from recovery.audit.audit import AnotherAudit, AuditAsked, AuditReport
from recovery.reconcile.events import AnotherIsAtIt, ReconcileRequest
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.wiring import run as reconcile
from scheduler.check_progress import AuditProgress, ReconcileProgress
from schemas.asked_checks import AUDIT, CHECKS, RECONCILE_DRY, AskedCheck
from schemas.errors import BillingError, LogUnavailable, StoreRefused, StoreUnavailable
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.console_actions import ConsoleActions, JobLost, Performed
from sinks.postgres.owned_job import OwnedJob, new_owner
from sinks.stripe_api.api import ApiTrouble

log = structlog.get_logger(__name__)

LOOK_S = 5.0
STOP_S = 2.0
"""Seconds between two looks for new jobs, and for whether a running one is to stop."""

OUTAGE_S, AGAIN_S, MOST_AGAIN_S = 900.0, 15.0, 120.0
"""Seconds for which a check waits while Stripe does not answer or refuses for a time (HTTP 409, 429, 5xx, or the header
Stripe-Should-Retry) and the check does not advance, and the shortest and longest pause before it asks again: each pause
is twice as long as the one before."""

PATIENCE = timedelta(minutes=2)
"""For how long one request is retried before the check waits, as its page then shows: Retry-After can be an hour."""

_NOTE_WITHIN_S = 5.0
"""Seconds for which a check that is cancelled tries to store what it has counted."""

NOTED_S = 1.0
"""Seconds between two notes of progress, unless something was appended: that is noted at once."""

Reports = Sequence[AuditReport | ReconcileReport]


@dataclass
class AskedChecks:
    """Takes jobs until cancelled."""

    settings: Settings
    config: Config
    records: ConsoleActions = field(init=False)
    settle_s: float = 30.0
    """Seconds before an audit reads again what differs."""
    last: str = "none yet"

    def __post_init__(self) -> None:
        self.records = ConsoleActions(self.settings.database_url, application="billing-scheduler")

    def note(self) -> str:
        """Returns the last job and how it ended, for /readyz."""
        return self.last

    async def run(self) -> None:
        while True:
            try:
                await self.turn()
            except (BillingError, OSError) as error:
                self.last = f"{type(error).__name__}: {error}"
                log.warning("check.retry_later", action="check.retry_later", error=str(error))
            except Exception as error:
                # A bug must not end all checks that are asked for later.
                self.last = f"{type(error).__name__}, see check.bug in the log"
                log.exception("check.bug", action="check.bug")
            await asyncio.sleep(LOOK_S)

    async def turn(self) -> None:
        """Works on each job that no process has. Raises StoreUnavailable."""
        for job in await self.records.open_jobs(*CHECKS):
            owner = new_owner()
            if await self.records.take(job.action_key, owner):
                run = CheckRun(self, OwnedJob(self.records, job.action_key, owner))
                await run.job.run(run.work(), run.fail)


class CheckRun:
    """One run of a job. Its methods raise JobLost once another process owns it."""

    def __init__(self, checks: AskedChecks, job: OwnedJob) -> None:
        self._checks = checks
        self.job = job
        self._progress: AuditProgress | ReconcileProgress | None = None
        self._noted = (0.0, 0)
        self._away_since: float | None = None
        self._pauses = 0
        self._begun: set[str] = set()
        self._furthest: dict[str, int] = {}
        self._audits = ""
        """The scope of this job's audits, '' if it has none."""

    async def work(self) -> None:
        """Works until the job ends. An outage makes it wait, and so does another check; its page shows why.

        An outage of Stripe is waited for as long as OUTAGE_S.
        """
        while (found := await self.job.read()) is not None:
            if self._progress is None:
                self._audits = f"console {found.action_key}" if found.action == AUDIT else ""
                self._progress = _progress_of(found)
            if found.wanted == "stop":
                await self._end("stopped", None)
                return
            self._progress.begin()
            self._begun.clear()
            try:
                reports = await self._unless_stopped(self._check(found, self._progress))
            except JobLost:
                raise
            except (AnotherIsAtIt, AnotherAudit) as error:
                await self._wait(f"{error}; this one begins after it")
            except (StoreUnavailable, LogUnavailable) as error:
                self.job.warn(error)
                await self._wait(f"waits: {error}")
            except (BillingError, InvalidSettings) as error:
                is_temporary = isinstance(error, ApiTrouble) and error.is_temporary
                if not is_temporary or not await self._may_wait(str(error)):
                    await self._end("failed", str(error))
                    return
            else:
                if reports is None:
                    continue
                trouble = _trouble(reports)
                is_away = any(one.is_unavailable for one in reports)
                if not is_away or not await self._may_wait(trouble or ""):
                    await self._end("failed" if trouble else "done", trouble)
                    return

    async def fail(self, note: str) -> None:
        """Ends the job after a bug."""
        await self._end("failed", note)

    async def _check(self, job: Performed, progress: AuditProgress | ReconcileProgress) -> Reports:
        """Does what is left of the job. Raises what reconcile and audit raise, such as AnotherIsAtIt."""
        asked, checks = AskedCheck.of_filter(job.filter), self._checks
        since, everywhere = asked.since(job.at), asked.all_accounts
        if isinstance(progress, AuditProgress):

            async def audited(report: AuditReport) -> None:
                progress.note(report)
                await self._note()

            wanted = AuditAsked(since=since, scope=self._audits, settle_s=checks.settle_s)
            return await auditing.run(
                checks.settings, checks.config, wanted, [], all_accounts=everywhere, most=0,
                complete=progress.complete, progress=audited, patience=PATIENCE, advanced=self._is_answered,
            )  # fmt: skip

        async def reconciled(report: ReconcileReport, is_complete: bool) -> None:
            progress.note(report, is_complete=is_complete)
            if is_complete or self._has_advanced(report, is_dry=wished.dry_run):
                self._is_answered()
            await self._note()

        wished = ReconcileRequest(since=since, dry_run=job.action == RECONCILE_DRY)
        return await reconcile(
            checks.settings, checks.config, wished, [], all_accounts=everywhere,
            complete=progress.complete, progress=reconciled, patience=PATIENCE,
        )  # fmt: skip

    async def _note(self) -> None:
        """Stores the progress. Without it, the next run would count what it has appended as 0."""
        if self._progress is None:
            return
        (at, count), now = self._noted, asyncio.get_running_loop().time()
        if self._progress.count == count and now - at < NOTED_S:
            return
        await self.job.records.advance(self.job.key, self.job.owner, 0, self._progress.result)
        self._noted = now, self._progress.count

    async def _may_wait(self, trouble: str) -> bool:
        """Waits before Stripe is asked again, and returns True, unless it has not answered for long."""
        now = asyncio.get_running_loop().time()
        self._away_since = self._away_since or now
        if now - self._away_since >= OUTAGE_S:
            return False
        again = now + min(AGAIN_S * 2**self._pauses, MOST_AGAIN_S)
        self._pauses += 1
        while asyncio.get_running_loop().time() < again and not await self._is_to_stop():
            await self._wait(f"waits: {trouble}")
        return True

    def _has_advanced(self, report: ReconcileReport, *, is_dry: bool) -> bool:
        """Returns whether Stripe has answered what was not read before. A dry run begins its account again."""
        account, is_first = report.account, report.account not in self._begun
        self._begun.add(account)
        if not is_dry:
            return not is_first  # the first report of a run is before its first request
        furthest = self._furthest.get(account, 0)
        self._furthest[account] = max(report.listed, furthest)
        return report.listed > furthest

    def _is_answered(self) -> None:
        self._away_since, self._pauses = None, 0

    async def _wait(self, note: str) -> None:
        await self.job.wait(note, 0, self._progress.result if self._progress is not None else {})

    async def _abandon(self, reason: str | None) -> None:
        """Ends the audits that this job leaves unfinished: no other job resumes them."""
        while self._audits:
            try:
                await auditing.abandon(self._checks.settings, self._audits, reason)
            except (StoreUnavailable, StoreRefused) as error:
                self.job.warn(error)
                await self._wait(f"waits: {error}")
            else:
                return

    async def _unless_stopped(self, work: Coroutine[Any, Any, Reports]) -> Reports | None:
        """Returns what the work returns, or None once the job is to stop."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=STOP_S)
                if not task.done() and await self._is_to_stop():
                    return None
            return task.result()
        except asyncio.CancelledError:
            await _cancelled(task)
            await self._note_at_last()
            raise
        finally:
            await _cancelled(task)

    async def _note_at_last(self) -> None:
        """Stores what was counted until the scheduler stopped: the next one finds it on the log and counts it as 0."""
        self._noted = (0.0, -1)
        try:
            async with asyncio.timeout(_NOTE_WITHIN_S):
                await self._note()
        except (StoreUnavailable, StoreRefused, JobLost, TimeoutError) as error:
            self.job.warn(error)

    async def _is_to_stop(self) -> bool:
        try:
            return await self.job.records.beat(self.job.key, self.job.owner) == "stop"
        except StoreUnavailable as error:
            self.job.warn(error)
            return False

    async def _end(self, status: str, trouble: str | None) -> None:
        if status != "done":
            await self._abandon("stopped" if status == "stopped" else None)
        result, count = (self._progress.result, self._progress.count) if self._progress is not None else ({}, 0)
        await self.job.end(status, result, count=count, note=trouble)
        self._checks.last = f"{self.job.key}: {status}"
        log.info("check.ended", action="check.ended", job=self.job.key, outcome=status, reason=trouble)


async def _cancelled(task: asyncio.Task[Reports]) -> None:
    """Cancels the work and waits until it has ended: what it is appending is on the log then, and counted."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _progress_of(job: Performed) -> AuditProgress | ReconcileProgress:
    if job.action == AUDIT:
        return AuditProgress(job.result)
    return ReconcileProgress(job.result, is_dry=job.action == RECONCILE_DRY)


def _trouble(reports: Reports) -> str | None:
    troubles = [f"{one.account or 'own account'}: {one.trouble}" for one in reports if one.trouble]
    return "; ".join(troubles[:3]) or None
