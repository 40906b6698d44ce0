"""Runs reconciliations and audits that people asked for in the console. One at a time, and beside the schedules.

A job that no process works on is taken within seconds. It continues where it stopped if the scheduler ends: the runs of
`billing reconcile` and `billing audit` keep their own place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from recovery.audit.audit import AnotherAudit, AuditAsked, AuditReport
from recovery.audit.wiring import run as audit
from recovery.reconcile.events import AnotherIsAtIt, ReconcileRequest
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.wiring import run as reconcile
from schemas.asked_checks import AUDIT, CHECKS, RECONCILE_DRY, AskedCheck
from schemas.errors import BillingError, LogUnavailable, StoreUnavailable
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.console_actions import ConsoleActions, JobLost, Performed
from sinks.postgres.owned_job import OwnedJob, new_owner

log = structlog.get_logger(__name__)

LOOK_S = 5.0
STOP_S = 2.0
"""Seconds between two looks for new jobs, and for whether a running one is to stop."""

_SHOWN = 20
"""Missing events that a result names."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How a check ended. `count` is what the audit log counts: events appended, or differences."""

    result: dict[str, Any]
    count: int
    trouble: str | None = None


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
                log.warning("check.retry_later", action="check.retry_later", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def turn(self) -> None:
        """Works on each job that no process has. Raises StoreUnavailable."""
        for job in await self.records.open_jobs(*CHECKS):
            owner = new_owner()
            if await self.records.take(job.action_key, owner):
                run = CheckRun(self, OwnedJob(self.records, job.action_key, owner))
                await run.job.run(run.work(), run.fail)

    async def check(self, job: Performed) -> Checked:
        """Does what a job asks for. Raises what reconcile and audit raise, such as AnotherIsAtIt."""
        asked = AskedCheck.of_filter(job.filter)
        since, everywhere = asked.since(job.at), asked.all_accounts
        if job.action == AUDIT:
            wanted = AuditAsked(since=since, scope=f"console {job.action_key}", settle_s=self.settle_s)
            audits = await audit(self.settings, self.config, wanted, [], all_accounts=everywhere, most=0)
            return audited(audits)
        wished = ReconcileRequest(since=since, dry_run=job.action == RECONCILE_DRY)
        return reconciled(await reconcile(self.settings, self.config, wished, [], all_accounts=everywhere))


class CheckRun:
    """One run of a job. Its methods raise JobLost once another process owns it."""

    def __init__(self, checks: AskedChecks, job: OwnedJob) -> None:
        self._checks = checks
        self.job = job

    async def work(self) -> None:
        """Works until the job ends. An outage makes it wait, and so does another check; its page shows why."""
        while (found := await self.job.read()) is not None:
            if found.wanted == "stop":
                await self._end("stopped", Checked({}, 0))
                return
            try:
                checked = await self._unless_stopped(self._checks.check(found))
            except JobLost:
                raise
            except (AnotherIsAtIt, AnotherAudit) as error:
                await self.job.wait(f"{error}; this one begins after it", 0, {})
            except (StoreUnavailable, LogUnavailable) as error:
                self.job.warn(error)
                await self.job.wait(f"waits: {error}", 0, {})
            except (BillingError, InvalidSettings) as error:
                await self._end("failed", Checked({}, 0, str(error)))
                return
            else:
                if checked is not None:
                    await self._end("failed" if checked.trouble else "done", checked)
                    return

    async def fail(self, note: str) -> None:
        """Ends the job after a bug."""
        await self._end("failed", Checked({}, 0, note))

    async def _unless_stopped(self, work: Coroutine[Any, Any, Checked]) -> Checked | None:
        """Returns the result, or None once the job is to stop."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=STOP_S)
                if not task.done() and await self._is_to_stop():
                    return None
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _is_to_stop(self) -> bool:
        try:
            return await self.job.records.beat(self.job.key, self.job.owner) == "stop"
        except StoreUnavailable as error:
            self.job.warn(error)
            return False

    async def _end(self, status: str, checked: Checked) -> None:
        await self.job.end(status, checked.result, count=checked.count, note=checked.trouble)
        self._checks.last = f"{self.job.key}: {status}"
        log.info("check.ended", action="check.ended", job=self.job.key, outcome=status, reason=checked.trouble)


def reconciled(reports: list[ReconcileReport]) -> Checked:
    """Returns the result of a reconciliation of some accounts."""
    accounts = [
        {
            "account": one.account,
            "from": one.window_from.isoformat(),
            "until": one.window_until.isoformat(),
            **one.counts,
        }
        for one in reports
    ]
    examples = [
        {"event_id": each["event_id"], "type": each["type"], "created": each["created"].isoformat()}
        for one in reports
        for each in one.examples
    ]
    totals = {name: sum(one.counts[name] for one in reports) for name in ("listed", "on_the_way", "missing", "fed")}
    result = {**totals, "accounts": accounts, "examples": examples[:_SHOWN]}
    return Checked(result, totals["fed"], _trouble([(one.account, one.trouble) for one in reports]))


def audited(reports: list[AuditReport]) -> Checked:
    """Returns the result of an audit of some accounts."""
    accounts = [
        {
            "account": one.account, "run_id": one.run_id, "from": one.window_from.isoformat(),
            "until": one.window_until.isoformat(), "compared": sum(one.counts.values()), "differences": one.differing,
        }
        for one in reports
    ]  # fmt: skip
    differences = sum(one.differing for one in reports)
    result = {
        "compared": sum(sum(one.counts.values()) for one in reports), "differences": differences, "accounts": accounts,
    }  # fmt: skip
    return Checked(result, differences, _trouble([(one.account, one.trouble) for one in reports]))


def _trouble(found: list[tuple[str, str | None]]) -> str | None:
    troubles = [f"{account or 'own account'}: {trouble}" for account, trouble in found if trouble]
    return "; ".join(troubles[:3]) or None
