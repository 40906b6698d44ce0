"""Creates the objects of an import from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recovery.imports.importer import Importer
from recovery.reconcile.wiring import logging
from recovery.stripe_lists import listing
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.postgres.imports import ImportRows
from sinks.postgres.pool import connect


@asynccontextmanager
async def importer(settings: Settings, config: Config, account: str) -> AsyncIterator[Importer]:
    """Yield an Importer; close it at the end of the block. Raises InvalidSettings, StoreUnavailable."""
    async with listing(settings, config) as lists, logging(settings) as event_log:
        rows = ImportRows(await connect(settings.database_url, application="billing-import", own_session=True))
        try:
            yield Importer(lists=lists, rows=rows, event_log=event_log, account=account, clock=utc_now)
        finally:
            rows.close()
