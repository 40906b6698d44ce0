"""Payments of versions before revision 0013: they get links and statuses, and rows that are one payment are joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.state import Payment
from sinks.postgres import backfill
from sinks.postgres.backfill import BACKFILLS, run_backfills
from sinks.postgres.pool import connect
from tests.kits.storekit import ask

PAYMENTS = next(each for each in BACKFILLS if each.name == "0013_payments")
PAID, WEAK = "1:001800000000:40:evt_1", "-0:001800000000:20:evt_2"


async def _insert(url: SecretStr, **columns: Any) -> None:
    values = {"account": "", "amount": 2900, "currency": "eur", "status": "pending"} | columns
    listed = ", ".join(f"'{value}'" for value in values.values())
    await ask(url, f"INSERT INTO billing.payments ({', '.join(values)}) VALUES ({listed})")


async def _run(url: SecretStr) -> None:
    await ask(url, "DELETE FROM billing.backfills")
    connection = await connect(url, application="test")
    try:
        await run_backfills(connection, [replace(PAYMENTS)])
    finally:
        connection.terminate()


async def test_old_payments_are_linked_joined_and_get_their_status(
    database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH", 2)
    of_invoice, of_session = Payment.id_of("", "in_1"), Payment.id_of("", "cs_1")
    await _insert(
        database, payment_id=of_invoice, invoice_id="in_1", payment_intent_id="pi_1", status="succeeded", version=PAID
    )
    await _insert(database, payment_id=of_session, checkout_session_id="cs_1", payment_intent_id="pi_1", version=WEAK)
    await _insert(
        database,
        payment_id=Payment.id_of("", "in_2"),
        invoice_id="in_2",
        closed_at="2026-11-27 00:00:00+00",
        version=WEAK,
    )
    await _insert(
        database,
        payment_id=Payment.id_of("", "in_3"),
        invoice_id="in_3",
        charge_id="ch_3",
        status="succeeded",
        version=PAID,
    )
    await ask(
        database,
        "INSERT INTO billing.disputes (account, dispute_id, charge_id, payment_id, amount, currency, status) "
        f"VALUES ('', 'dp_3', 'ch_3', '{Payment.id_of('', 'in_3')}', 2900, 'eur', 'lost')",
    )
    await _run(database)
    rows = "SELECT string_agg(concat_ws(':', invoice_id, status, checkout_session_id), ' ' ORDER BY invoice_id)"
    assert await ask(database, f"{rows} FROM billing.payments") == "in_1:succeeded:cs_1 in_2:closed in_3:lost"
    links = "SELECT string_agg(stripe_id, ' ' ORDER BY stripe_id) FROM billing.payment_links WHERE payment_id = "
    assert await ask(database, f"{links}'{of_invoice}'") == "cs_1 in_1 pi_1"
    assert await ask(database, "SELECT count(*) FROM billing.payment_links") == 6
    state = "SELECT md5(string_agg(p::text, '' ORDER BY payment_id)) FROM billing.payments p"
    before = await ask(database, state)
    await _run(database)
    assert await ask(database, state) == before
