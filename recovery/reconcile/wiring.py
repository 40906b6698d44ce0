"""Creates the objects of a reconciliation from the settings, for the command and for the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

from eventlog.append import EventAppender
from eventlog.backlog import ids_on_the_way
from recovery.reconcile.events import Progress, Reconciler, ReconcileRequest, no_progress
from recovery.reconcile.objects import DriftReport, ObjectComparison, repair
from recovery.reconcile.refetch import refetch
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import Runs
from recovery.stripe_lists import accounts_asked, listing
from recovery.window import KEPT
from schemas.settings import Config, Settings
from schemas.timing import utc_now


@asynccontextmanager
async def reconciler(
    settings: Settings, config: Config, *, clock: Callable[[], datetime], patience: timedelta | None = None
) -> AsyncIterator[Reconciler]:
    """Yield a Reconciler; close it at the end of the block. Raises InvalidSettings, StoreUnavailable.

    `patience` is that of its Lists.
    """
    async with listing(settings, config, patience=patience) as lists, logging(settings) as event_log:
        runs = await Runs.connect(settings.database_url)
        try:
            yield Reconciler(
                lists=lists,
                runs=runs,
                event_log=event_log,
                on_the_way=partial(
                    ids_on_the_way, settings.kafka, f"{settings.topic_prefix}.worker", settings.events_topic
                ),
                clock=clock,
            )
        finally:
            runs.close()


@asynccontextmanager
async def logging(settings: Settings) -> AsyncIterator[EventAppender]:
    event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-reconcile")
    try:
        yield event_log
    finally:
        await asyncio.to_thread(event_log.close)


async def run(
    settings: Settings,
    config: Config,
    asked: ReconcileRequest,
    accounts: list[str],
    *,
    all_accounts: bool,
    complete: Container[str] = (),
    progress: Progress = no_progress,
    patience: timedelta | None = None,
) -> list[ReconcileReport]:
    """Find events that never arrived and append them to the log (see Reconciler). Leaves out `complete` accounts.

    Raises InvalidSettings, StoreUnavailable, LogUnavailable, ApiTrouble, AnotherIsAtIt.
    """
    async with reconciler(settings, config, clock=utc_now, patience=patience) as wired:
        await wired.take_turn(asked)  # before the accounts are listed: a run that has to wait asks Stripe for nothing
        named = await accounts_asked(wired.lists, accounts, all_accounts=all_accounts)
        return await wired.run(asked, [one for one in named if one not in complete], progress=progress)


async def compare(
    settings: Settings,
    config: Config,
    asked: ReconcileRequest,
    accounts: list[str],
    *,
    all_accounts: bool,
    repairs: bool,
    settle_s: float,
    progress: Callable[[DriftReport], None] = lambda _: None,
) -> list[DriftReport]:
    """Compare subscriptions and invoices with Stripe; with `repairs`, queue repairs unless it is a dry run.

    `progress` is called after each page. Raises InvalidSettings, StoreUnavailable, LogUnavailable, ApiTrouble.
    """
    async with listing(settings, config) as lists, logging(settings) as event_log:
        comparison = await ObjectComparison.connect(lists, settings.database_url)
        try:
            found = []
            for account in await accounts_asked(lists, accounts, all_accounts=all_accounts):
                repairing = partial(repair, event_log=event_log, livemode=lists.mode.livemode, clock=utc_now)
                report = await comparison.drift(
                    account,
                    asked.since or utc_now() - KEPT,
                    settle_s=settle_s,
                    repair=repairing if repairs and not asked.dry_run else None,
                    progress=progress,
                )
                found.append(report)
            return found
        finally:
            comparison.close()


async def refetch_objects(settings: Settings, config: Config, object_ids: list[str], account: str) -> int:
    """Append the present state of these objects at Stripe to the log; return their number.

    Raises InvalidSettings, LogUnavailable, ApiTrouble, ValueError.
    """
    async with listing(settings, config) as lists, logging(settings) as event_log:
        return await refetch(lists, event_log, object_ids, account, clock=utc_now)
