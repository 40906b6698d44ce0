"""Turns shadow mode on and off, and reports what it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from schemas.errors import BillingError
from sinks.postgres import shadow
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.outboxes import BY_TABLE
from sinks.postgres.pool import Session, connect
from sinks.postgres.shadow import Shadow


class NotInShadow(BillingError):
    """Shadow mode is off."""


@dataclass(slots=True)
class Held:
    """What was held since a time (UTC): the counts by outbox and kind, and the newest rows of each outbox."""

    period: Shadow
    since: datetime
    counts: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


async def begin(url: SecretStr, entry: AuditEntry) -> bool:
    """Turn the mode on. Returns False if it was on. Raises StoreUnavailable."""
    async with _session(url) as session:
        return await shadow.begin(session, entry)


async def held(url: SecretStr, since: datetime | None, *, outboxes: tuple[str, ...], limit: int) -> Held:
    """Return what was held, by default since the mode began. Raises NotInShadow if it never was, StoreUnavailable."""
    async with _session(url) as session:
        period = await shadow.state(session)
        if period is None:
            raise NotInShadow("shadow mode was never on")
        begin_at = since or period.began_at
        found = Held(period, begin_at, await shadow.held(session, begin_at))
        for name in outboxes:
            found.rows[name] = await shadow.held_rows(session, BY_TABLE[name], begin_at, limit)
        return found


async def end(url: SecretStr, release_since: datetime | None, entry: AuditEntry) -> tuple[Shadow, Counter[str]]:
    """Turn the mode off. Returns the period and what was released, by outbox.

    What was held stays so, except what was queued at `release_since` or later: it leaves now. If that is interrupted,
    the mode is off and the rest stays held; the same call releases it. Raises NotInShadow if there is nothing to end
    or to release, StoreUnavailable.
    """
    async with _session(url) as session:
        period = await shadow.end(session, entry)
        if release_since is None:
            if period is None:
                raise NotInShadow("shadow mode is off")
            return period, Counter()
        if period is None:
            period = await shadow.state(session)
            if period is None:
                raise NotInShadow("shadow mode was never on")
            await shadow.note(session, entry)
        return period, Counter(await shadow.release(session, release_since))


@asynccontextmanager
async def _session(url: SecretStr) -> AsyncIterator[Session]:
    session = await connect(url, application="billing-shadow")
    try:
        yield session
    finally:
        session.terminate()
