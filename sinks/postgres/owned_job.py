"""One run of a job in one process: it shows that it works, and stores how the job ended."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog

from schemas.errors import StoreRefused, StoreUnavailable
from sinks.postgres.console_actions import ConsoleActions, JobLost, Performed

log = structlog.get_logger(__name__)

BEAT_S, RETRY_S = 10.0, 3.0
"""Seconds between two signs of life, and before Postgres is asked again."""


def new_owner() -> str:
    """Returns the name of a new run."""
    return secrets.token_hex(8)


class OwnedJob:
    """A job that this run owns. Methods raise JobLost once another run owns it; an outage of Postgres they wait out."""

    def __init__(self, records: ConsoleActions, key: str, owner: str) -> None:
        self.records = records
        self.key = key
        self.owner = owner

    async def run(self, work: Coroutine[Any, Any, None], failed: Callable[[str], Awaitable[None]]) -> None:
        """Does the work as long as this run owns the job.

        A bug ends the job by `failed`, so that no process tries it again. Cancelled, it leaves the job as it is:
        another run takes it over.
        """
        tasks = [asyncio.create_task(work), asyncio.create_task(self.beat())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        try:
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, JobLost):
                    log.error("job.failed", action="job.failed", job=self.key, exc_info=result)
                    await failed(f"unexpected: {type(result).__name__}")
        except JobLost:
            log.warning("job.lost", action="job.lost", job=self.key)

    async def beat(self) -> None:
        """Shows that the job is worked on, also during a slow step, until the job is lost."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.records.beat(self.key, self.owner)
            except (StoreUnavailable, StoreRefused) as error:
                self.warn(error)

    async def read(self) -> Performed | None:
        """Returns the job's row."""
        while True:
            try:
                return await self.records.find(self.key)
            except (StoreUnavailable, StoreRefused) as error:
                self.warn(error)
                await asyncio.sleep(RETRY_S)

    async def wait(self, note: str, done: int, result: Mapping[str, Any]) -> None:
        """Shows why the job waits, and waits a little."""
        try:
            await self.records.advance(self.key, self.owner, done, result, note=note)
        except (StoreUnavailable, StoreRefused) as error:
            self.warn(error)
        await asyncio.sleep(RETRY_S)

    async def end(self, status: str, result: Mapping[str, Any], *, count: int, note: str | None = None) -> None:
        """Stores how the job ended, as soon as Postgres takes it."""
        while True:
            try:
                await self.records.end_job(self.key, self.owner, status, result, count=count, note=note)
            except (StoreUnavailable, StoreRefused) as error:
                self.warn(error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def warn(self, error: Exception) -> None:
        """Logs an error after which the run goes on."""
        log.warning("job.retry", action="job.retry", job=self.key, error=str(error))
