"""Minimal rows for tests of the store. Each test sets the fields it needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
from pydantic import SecretStr

from schemas.known import Known
from schemas.references import References
from schemas.settings import Config
from schemas.state import Row
from sinks.postgres.outboxes import EmailRow
from sinks.postgres.rows import DeadLetterRow, Flush, LedgerRow
from sinks.postgres.store import Store
from tests.waiting import eventually

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, UTC)

_EVENT = LedgerRow(
    event_id="evt_1",
    type="customer.subscription.updated",
    stream="subscriptions",
    customer_id="cus_1",
    account="",
    livemode=False,
    created=NOW,
    received_at=NOW,
    source="stripe",
    api_version="2025-03-31.basil",
    endpoint="default",
    partition=3,
    offset=7_000_000_000,
    outcome="applied",
    reason=None,
    attempts=1,
    applied_at=NOW,
    payload='{"id": "evt_1"}',
)


_LETTER = DeadLetterRow(
    consumer_group="worker",
    topic="billing.events",
    partition=3,
    offset=41,
    event_id="evt_dead",
    type="invoice.paid",
    stream="invoices",
    account="",
    customer_id="cus_1",
    stage="decide",
    error_class="RuleViolated",
    message="no",
    attempts=1,
    first_failed_at=NOW,
    last_failed_at=NOW,
    code_version="1",
)


def dead_letter_row(**changes: Any) -> DeadLetterRow:
    return replace(_LETTER, **changes)


def ledger_row(event_id: str, **changes: Any) -> LedgerRow:
    return replace(_EVENT, event_id=event_id, **changes)


def email_row(key: str, event_id: str = "evt_1", **changes: Any) -> EmailRow:
    row = EmailRow(
        email_key=key,
        event_id=event_id,
        account="",
        customer_id="cus_1",
        template="plan-changed",
        recipient=None,
        locale=None,
        livemode=False,
        data={"plan": "pro"},
        queued_at=NOW,
        next_attempt_at=NOW,
    )
    return replace(row, **changes)


def known(*saved: Row, stored: tuple[Row, ...] = ()) -> Known:
    """The known rows after `stored` was loaded and `saved` was decided."""
    view = Known(Config(), stored)
    for row in saved:
        view.save(row)
    return view


def customers(*ids: str, account: str = "") -> References:
    return References(customers={(account, id_) for id_ in ids})


async def loaded(store: Store, refs: References) -> list[Row]:
    async with store.transaction([]) as transaction:
        return await transaction.load(refs)


async def write(store: Store, flush: Flush) -> None:
    """Flush in a separate transaction."""
    async with store.transaction([]) as transaction:
        await transaction.flush(flush)


async def ask(url: SecretStr, query: str, *arguments: object, within_s: float = 30) -> Any:
    """The first value of the first row, read on a separate connection. Raises TimeoutError after `within_s`."""
    connection = await asyncpg.connect(url.get_secret_value(), timeout=30)
    try:
        return await connection.fetchval(query, *arguments, timeout=within_s)
    finally:
        await connection.close(timeout=30)


async def fetch(url: SecretStr | str, query: str, *arguments: object, within_s: float = 30) -> list[dict[str, Any]]:
    """The rows of a query, read on a separate connection. Raises TimeoutError after `within_s`."""
    address = url if isinstance(url, str) else url.get_secret_value()
    connection = await asyncpg.connect(address, timeout=30)
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments, timeout=within_s)]
    finally:
        await connection.close(timeout=30)


async def until_waiting(url: SecretStr, locktype: str) -> None:
    """Wait until a session waits for a lock of this type (pg_locks.locktype)."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = $1"
    await eventually(lambda: ask(url, query, locktype))
