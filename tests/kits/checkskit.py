"""Checks that people ask for in the console, with the Stripe that the scheduler asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scheduler.asked_checks import AskedChecks
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job, Performed
from tests.kits.reconcilekit import ReconcileKit
from tests.kits.storekit import ask
from tests.waiting import eventually

FORM = "a-key-of-a-form-1"


@dataclass
class Rig:
    """A scheduler's part, and the Stripe that it asks."""

    desk: ReconcileKit
    checks: AskedChecks
    records: ConsoleActions

    async def asked(self, action: str, **filter: Any) -> None:
        entry = AuditEntry(who="sam", role="operator", action=f"console.{action}", filter=filter)
        assert await self.records.begin(FORM, entry, job=Job(None, None))

    async def found(self) -> Performed:
        job = await self.records.find(FORM)
        assert job is not None
        return job

    async def logged(self) -> str:
        url = self.desk.settings.database_url
        return str(
            await ask(url, "SELECT string_agg(outcome || ' ' || coalesce(count, -1), ',') FROM billing.audit_log")
        )


async def begun(rig: Rig, is_so: Callable[[Performed], bool], why: str) -> asyncio.Task[None]:
    """Lets the scheduler work until the job's row is so."""
    working = asyncio.create_task(rig.checks.turn())

    async def has() -> bool:
        return is_so(await rig.found())

    await eventually(has, why)
    return working


async def stopped(rig: Rig, working: asyncio.Task[None]) -> Performed:
    assert await rig.records.want(FORM, "stop", AuditEntry(who="sam", role="operator", action="console.job.stop"))
    await asyncio.wait_for(working, 60)
    job = await rig.found()
    assert job.status == "stopped"
    return job
