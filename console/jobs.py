"""Replays dead letters as jobs: with a rate, pause and stop, and a progress that survives browser and process.

A job works through the letters that match its filter and last failed before it began, in chunks. So a letter that dies
again is not replayed twice. The place of the last letter is kept with the job, so a job that was interrupted continues
where it stopped. A run owns its job: it shows every ten seconds that it works, and stops when another run took the job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from console.actions import check_key
from console.identity import Person
from recovery.replay.letters import ReplayReport, letters_by_event, open_replay
from schemas.errors import BillingError, ServiceUnavailable
from schemas.rate import RateLimit
from schemas.settings import Settings
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job, JobLost, Performed
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, LetterFilter, Place, ReplayUnderWay
from sinks.postgres.owned_job import OwnedJob, new_owner

log = structlog.get_logger(__name__)

ACTION = "replay dead letters"
_CHUNK = 100
_CHUNKS_AT_ONCE = 5
"""Chunks that are found at once. Letters that somebody discards meanwhile are still replayed, so it is not many."""

_PAUSE_S = 1.0
_FIELDS = ("ids", "types", "customer", "error", "frame", "stream", "since", "until")


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
        """Starts a job once for this key. Returns the path of its page. Raises StoreUnavailable, Refused."""
        stored = filter_to_json(wanted) | {"per_second": per_second, "failed_before": began_at.isoformat()}
        entry = AuditEntry(
            who=person.who, role=person.role.label, action=f"console.{ACTION}", filter=stored, reason=reason, peer=peer
        )
        owner = new_owner()
        if await self._records.begin(check_key(key), entry, job=Job(owner, total)):
            self._run(key, owner)
        return f"/jobs/{key}"

    @property
    def working(self) -> int:
        """How many jobs this process is working on, paused ones too."""
        return len(self._running)

    async def resume(self) -> None:
        """Continues the jobs whose process is gone. Raises StoreUnavailable."""
        for job in await self._records.open_jobs(ACTION):
            owner = new_owner()
            if job.action_key not in self._running and await self._records.take(job.action_key, owner):
                self._run(job.action_key, owner)

    async def close(self) -> None:
        """Stops working. The jobs continue when a console starts again."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _run(self, key: str, owner: str) -> None:
        task = asyncio.create_task(self._own(key, owner))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _own(self, key: str, owner: str) -> None:
        run = ReplayRun(self._settings, self._records, key, owner)
        await run.job.run(run.work(), run.fail)


class ReplayRun:
    """One run of a job, in one process. Its methods raise JobLost once another run owns the job."""

    def __init__(self, settings: Settings, records: ConsoleActions, key: str, owner: str) -> None:
        self._settings = settings
        self.job = OwnedJob(records, key, owner)
        self._counts: dict[str, Any] = {}

    async def work(self) -> None:
        """Works until the job ends. An outage makes it wait, with the reason on its page."""
        rate: RateLimit | None = None
        has_begun = False
        while (job := await self.job.read()) is not None:
            if not has_begun:
                # Afterwards this run knows more than the table: a chunk is counted before Postgres takes its counts.
                self._counts, has_begun = dict(job.result), True
            try:
                if job.wanted == "stop":
                    await self._end("stopped")
                    return
                if job.wanted == "pause":
                    await self.job.records.rest(self.job.key, self.job.owner, "paused")
                    await asyncio.sleep(_PAUSE_S)
                    continue
                await self.job.records.rest(self.job.key, self.job.owner, "running")
                rate = rate or RateLimit(job.filter.get("per_second"))
                if await self._replay(job, rate):
                    await self._end("done")
                    return
            except JobLost:
                raise
            except ReplayUnderWay:
                await self._wait("another replay is running; this one continues after it")
            except (BillingError, ServiceUnavailable) as error:
                self.job.warn(error)
                await self._wait(f"waits: {error}")

    async def fail(self, note: str) -> None:
        """Ends the job after a bug."""
        await self._end("failed", note=f"{note}; the rest is still open")

    async def _end(self, status: str, *, note: str | None = None) -> None:
        await self.job.end(status, self._counts, count=int(self._counts.get("replayed", 0)), note=note)

    async def _replay(self, job: Performed, rate: RateLimit) -> bool:
        """Replays until nothing is left and returns True, or False if something else is wanted of the job."""
        wanted, size = filter_from_json(job.filter), rate.burst(_CHUNK)
        wanted = replace(wanted, limit=size * _CHUNKS_AT_ONCE)
        url = self._settings.database_url
        async with (
            DeadLetterIndex.open(url, application="billing-console") as index,
            open_replay(self._settings, index, job.who) as replay,
        ):
            while letters := await index.find(wanted, after=place_of(self._counts)):
                for chunk in chunks_of(letters, size, is_cut=len(letters) == wanted.limit):
                    self._count(await replay.run(chunk, rate), chunk)
                    done = done_of(self._counts)
                    if await self.job.records.advance(self.job.key, self.job.owner, done, self._counts) != "run":
                        return False
        return True

    def _count(self, report: ReplayReport, chunk: list[IndexedLetter]) -> None:
        found = {
            "letters": len(chunk), "replayed": report.replayed, "settled": report.settled,
            "from_ledger": len(report.from_ledger), "gone": len(report.gone),
        }  # fmt: skip
        self._counts = {
            **{name: self._counts.get(name, 0) + number for name, number in found.items()},
            # Letters that are gone stay open, so the place decides where to go on, and not the status.
            "after": list(chunk[-1].place),
        }

    async def _wait(self, note: str) -> None:
        await self.job.wait(note, done_of(self._counts), self._counts)


def chunks_of(letters: list[IndexedLetter], size: int, *, is_cut: bool) -> list[list[IndexedLetter]]:
    """Returns letters in log order as chunks of about `size`. The letters of one event are in one chunk.

    `is_cut`: there may be more letters. Then the last event is left out if it is not the only one, because some of its
    letters may be among those.
    """
    chunks: list[list[IndexedLetter]] = []
    groups = list(letters_by_event(letters))
    for group in groups[:-1] if is_cut and len(groups) > 1 else groups:
        if chunks and len(chunks[-1]) < size:
            chunks[-1] += group
        else:
            chunks.append(list(group))
    return chunks


def place_of(counts: Mapping[str, Any]) -> Place | None:
    """Returns the place of the last letter that a job has dealt with, None at its start."""
    after = counts.get("after")
    return (str(after[0]), int(after[1]), int(after[2]), int(after[3])) if after else None


def done_of(counts: Mapping[str, Any]) -> int:
    """Returns how many letters a job has dealt with."""
    return int(counts.get("letters", 0))


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
    """Returns the filter of a stored job: only open letters that had failed before the job began.

    Raises ValueError for a filter with names that are not those of a filter: it would select too many letters.
    """
    if unknown := stored.keys() - {*_FIELDS, "per_second", "failed_before"}:
        raise ValueError(f"the job's filter has {', '.join(sorted(unknown))}")

    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(stored[name]) if stored.get(name) else None

    ends = [at for at in (moment("until"), moment("failed_before")) if at is not None]
    return LetterFilter(
        ids=tuple(stored.get("ids", ())),
        types=tuple(stored.get("types", ())),
        customer=stored.get("customer"),
        error=stored.get("error"),
        frame=stored.get("frame"),
        stream=stored.get("stream"),
        since=moment("since"),
        until=min(ends) if ends else None,
        statuses=("open",),
    )
