"""Replays dead letters as jobs: with a rate, pause and stop, and a progress that survives browser and process.

A job works through the letters that match its filter and last failed before it began, in chunks. So a letter that dies
again is not replayed twice, and a job that was interrupted continues where it stopped: replayed letters are not open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from console.identity import Person
from recovery.replay.letters import replay_letters
from schemas.errors import BillingError, ServiceUnavailable
from schemas.rate import RateLimit
from schemas.settings import Settings
from sinks.postgres.console_actions import ConsoleActions, Performed
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter, ReplayUnderWay

log = structlog.get_logger(__name__)

ACTION = "replay dead letters"
_CHUNK = 100
_PAUSE_S = 1.0
_RETRY_S = 3.0
_FIELDS = ("ids", "types", "customer", "error", "stream", "since", "until")


class ReplayJobs:
    """Starts and continues replay jobs in this process."""

    def __init__(self, settings: Settings, records: ConsoleActions) -> None:
        self._settings = settings
        self._records = records
        self._running: dict[str, asyncio.Task[None]] = {}

    async def start(
        self,
        key: str,
        person: Person,
        wanted: LetterFilter,
        *,
        began_at: datetime,
        per_second: float | None,
        total: int,
        reason: str | None,
        peer: str | None = None,
    ) -> str:
        """Starts a job once for this key. Returns the path of its page. Raises StoreUnavailable."""
        stored = filter_to_json(wanted) | {"per_second": per_second, "failed_before": began_at.isoformat()}
        if await self._records.begin(
            key,
            person.who,
            person.role.label,
            ACTION,
            target="",
            filter=stored,
            reason=reason,
            total=total,
            peer=peer,
            is_job=True,
        ):
            self._run(key)
        return f"/jobs/{key}"

    @property
    def working(self) -> int:
        """How many jobs this process is working on, paused ones too."""
        return len(self._running)

    async def resume(self) -> None:
        """Continues the jobs whose process is gone. Raises StoreUnavailable."""
        for job in await self._records.open_jobs(ACTION):
            if job.action_key not in self._running and await self._records.take(job.action_key):
                self._run(job.action_key)

    async def close(self) -> None:
        """Stops working. The jobs continue when a console starts again."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _run(self, key: str) -> None:
        task = asyncio.create_task(self._work(key))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _work(self, key: str) -> None:
        """Works until the job ends. An outage makes it wait, with the reason on its page."""
        counts: dict[str, Any] = {}
        while (job := await self._when_up(key)) is not None:
            counts = dict(job.result)
            if job.wanted == "stop":
                await self._end(job, "stopped", counts)
                return
            if job.wanted == "pause":
                await self._rest(job, "paused")
                await asyncio.sleep(_PAUSE_S)
                continue
            await self._rest(job, "running")
            try:
                left = await self._chunk(job, counts)
                await self._records.advance(key, done_of(counts), counts)
            except ReplayUnderWay:
                await self._wait(job, counts, "another replay is running; this one continues after it")
                continue
            except (BillingError, ServiceUnavailable) as error:
                log.warning("console.job_retry", action="console.job_retry", job=key, error=str(error))
                await self._wait(job, counts, f"waits: {error}")
                continue
            if not left:
                await self._end(job, "done", counts)
                return

    async def _chunk(self, job: Performed, counts: dict[str, Any]) -> bool:
        """Replays the next letters. Returns False if there was none."""
        wanted = filter_from_json(job.filter)
        per_second, began = job.filter.get("per_second"), time.monotonic()
        rate = RateLimit(per_second)
        async with DeadLetterIndex.open(self._settings.database_url, application="billing-console") as index:
            letters = await index.find(wanted, newest_first=False)
            gone = set(counts.get("gone_ids", ()))
            letters = [letter for letter in letters if (letter.event_id or "") not in gone][: rate.burst(_CHUNK)]
            if not letters:
                return False
            report = await replay_letters(self._settings, index, letters, rate, by=job.who)
        if per_second:
            await asyncio.sleep(max(0.0, len(letters) / per_second - (time.monotonic() - began)))
        counts["replayed"] = counts.get("replayed", 0) + report.replayed
        counts["settled"] = counts.get("settled", 0) + report.settled
        counts["from_ledger"] = counts.get("from_ledger", 0) + len(report.from_ledger)
        counts["gone_ids"] = [*counts.get("gone_ids", ()), *report.gone][:1000]
        counts["gone"] = counts.get("gone", 0) + len(report.gone)
        return True

    async def _when_up(self, key: str) -> Performed | None:
        while True:
            try:
                return await self._records.find(key)
            except (BillingError, ServiceUnavailable):
                await asyncio.sleep(_RETRY_S)

    async def _wait(self, job: Performed, counts: Mapping[str, Any], note: str) -> None:
        try:
            await self._records.advance(job.action_key, done_of(counts), counts, note=note)
        except (BillingError, ServiceUnavailable) as error:
            log.warning("console.job_retry", action="console.job_retry", job=job.action_key, error=str(error))
        await asyncio.sleep(_RETRY_S)

    async def _rest(self, job: Performed, status: str) -> None:
        try:
            await self._records.rest(job.action_key, status)
        except (BillingError, ServiceUnavailable) as error:
            log.warning("console.job_retry", action="console.job_retry", job=job.action_key, error=str(error))

    async def _end(self, job: Performed, status: str, counts: Mapping[str, Any]) -> None:
        while True:
            try:
                await self._records.end(job.action_key, status, counts, count=int(counts.get("replayed", 0)))
            except (BillingError, ServiceUnavailable) as error:
                log.warning("console.job_retry", action="console.job_retry", job=job.action_key, error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return


def done_of(counts: Mapping[str, Any]) -> int:
    """Returns how many letters a job has dealt with."""
    return int(counts.get("replayed", 0)) + int(counts.get("settled", 0)) + int(counts.get("gone", 0))


def filter_to_json(wanted: LetterFilter) -> dict[str, Any]:
    """Returns the filter as it is stored with a job and in the audit log."""
    found: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(wanted, name)
        if isinstance(value, datetime):
            found[name] = value.isoformat()
        elif value:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def filter_from_json(stored: Mapping[str, Any]) -> LetterFilter:
    """Returns the filter of a stored job: only open letters that had failed before the job began."""

    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(stored[name]) if stored.get(name) else None

    ends = [at for at in (moment("until"), moment("failed_before")) if at is not None]
    return LetterFilter(
        ids=tuple(stored.get("ids", ())),
        types=tuple(stored.get("types", ())),
        customer=stored.get("customer"),
        error=stored.get("error"),
        stream=stored.get("stream"),
        since=moment("since"),
        until=min(ends) if ends else None,
        statuses=("open",),
        limit=_CHUNK + 1000,
    )
