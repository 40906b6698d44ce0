"""Creates the objects of an audit from the settings, for the command and for the scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

from eventlog.backlog import ids_on_the_way
from recovery.audit.audit import AuditAsked, Auditor, AuditReport, Progress
from recovery.audit.books import AuditBooks
from recovery.audit.runs import AuditRuns
from recovery.stripe_lists import accounts_asked, listing
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.postgres.pool import connect


@asynccontextmanager
async def auditor(
    settings: Settings,
    config: Config,
    *,
    clock: Callable[[], datetime] = utc_now,
    patience: timedelta | None = None,
    advanced: Callable[[], None] = lambda: None,
) -> AsyncIterator[Auditor]:
    """Yield an Auditor; close it at the end of the block. Raises InvalidSettings, StoreUnavailable.

    `advanced` is called each time that a run's place is stored. `patience` is that of its Lists.
    """
    async with listing(settings, config, patience=patience) as lists:
        connection = await connect(settings.database_url, application="billing-audit", own_session=True)
        try:
            yield Auditor(
                lists=lists,
                runs=AuditRuns(connection, advanced),
                books=AuditBooks(connection),
                config=config,
                on_the_way=partial(
                    ids_on_the_way, settings.kafka, f"{settings.topic_prefix}.worker", settings.events_topic
                ),
                clock=clock,
            )
        finally:
            connection.terminate()


async def run(
    settings: Settings,
    config: Config,
    asked: AuditAsked,
    accounts: list[str],
    *,
    all_accounts: bool,
    most: int,
    complete: Container[str] = (),
    progress: Progress | None = None,
    patience: timedelta | None = None,
    advanced: Callable[[], None] = lambda: None,
) -> list[AuditReport]:
    """Audit the accounts (see Auditor), without the `complete` ones. `patience` and `advanced` are those of `auditor`.

    Raises InvalidSettings, StoreUnavailable, LogUnavailable, ApiTrouble, AnotherAudit.
    """
    async with auditor(settings, config, patience=patience, advanced=advanced) as wired:
        await wired.take_turn()  # before the accounts are listed: a run that has to wait asks Stripe for nothing
        named = await accounts_asked(wired.lists, accounts, all_accounts=all_accounts)
        left = [one for one in named if one not in complete]
        return await wired.run(asked, left, most=most, progress=progress)


async def abandon(settings: Settings, scope: str, reason: str | None) -> None:
    """End the unfinished runs of a scope that is not asked for again, with the reason unless they failed by themselves.

    Raises InvalidSettings, StoreUnavailable.
    """
    connection = await connect(settings.database_url, application="billing-audit", own_session=True)
    try:
        await AuditRuns(connection).abandon(scope, reason)
    finally:
        connection.terminate()
