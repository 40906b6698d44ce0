"""Prunes every BILLING_PRUNE_EVERY_S seconds what `[retention]` ends (sinks/postgres/prune.py)."""

from __future__ import annotations

from datetime import datetime, timedelta

from prometheus_client import Counter
from sqlalchemy import func, select

from recovery.pruning import run
from scheduler.repeated import RepeatedTask
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.audit_log import ActorRole
from sinks.postgres.pool import reading
from sinks.postgres.prune import ACTION
from sinks.postgres.tables import audit_log

RUNS = Counter("billing_prune_runs", "Scheduled runs of billing prune, by outcome", ["outcome"])
PRUNED = Counter("billing_pruned_rows", "Rows that scheduled runs of billing prune deleted or emptied")


class PruneSchedule(RepeatedTask):
    """Prunes until cancelled. Two schedulers that do so at once share the work."""

    name = "prune"
    runs = RUNS

    async def time_left(self, jitter: timedelta) -> timedelta:
        c = audit_log.c
        async with reading(self.settings.database_url) as connection:
            begun: datetime | None = await connection.scalar(
                select(func.max(c.at)).where(
                    c.action == ACTION, c.at > func.now() - 2 * self.every, c.outcome == "done"
                )
            )
        return begun + self.every + jitter - self.clock() if begun is not None else timedelta(0)

    async def work(self) -> timedelta:
        done = await run(
            self.settings.database_url,
            self.config.retention,
            by="scheduler",
            role=ActorRole.SCHEDULE,
            archive=PayloadArchive(self.settings.payloads_url),
        )
        PRUNED.inc(sum(done.values()))
        return self.done()
