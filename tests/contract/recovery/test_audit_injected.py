"""Differences that are put into the books one by one: each is found, named and repaired, then the books agree (D11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from local.stripe.simulator.books import Json
from local.stripe.simulator.collection import pay_out_of_band
from local.stripe.simulator.endings import end
from local.stripe.simulator.refunds import refund, refundable
from recovery.audit.differences import Cause, Kind
from streams.rules.catalog import rule_of
from tests.kits.auditkit import AuditKit, open_audit
from tests.waiting import eventually


@pytest.fixture
async def kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[AuditKit]:
    async with open_audit(kafka_bootstrap, database, topic_prefix) as opened:
        charges = [one for one in opened.books.all("charge") if refundable(one) > 500]
        refund(opened.books, charges[-1], 300)
        await opened.apply(event.render() for event in opened.company.stripe.events())
        yield opened


@pytest.fixture
async def rows(kit: AuditKit) -> AsyncIterator[asyncpg.Connection[Any]]:
    url = kit.desk.settings.database_url.get_secret_value()
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url, timeout=10)
    yield connection
    await connection.close(timeout=5)


async def _change(rows: asyncpg.Connection[Any], query: str, *arguments: object) -> None:
    """Change what is stored: exactly one row."""
    done = await rows.execute(query, *arguments, timeout=10)
    assert done.split()[-1] == "1", (done, query)


async def test_D11_further_differences_are_found_named_and_repaired(
    kit: AuditKit, rows: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    active = [one for one in kit.books.all("subscription") if one["status"] == "active"]
    moved, abroad, ended = (one["id"] for one in active[:3])
    paid = [one for one in kit.books.all("invoice") if one["status"] == "paid" and one["amount_paid"] > 500]
    (foreign,) = (one["id"] for one in sorted(paid, key=lambda one: one["created"])[-1:])
    refunded = kit.newest("refund", amount=300)
    expected: dict[tuple[Kind, str], Cause] = {}

    plan = "UPDATE billing.subscriptions SET plan = CASE plan WHEN 'team' THEN 'pro' ELSE 'team' END"
    await _change(rows, f"{plan} WHERE subscription_id = $1", moved)
    expected[Kind.SUBSCRIPTION, moved] = Cause.OTHER_PLAN
    await _change(rows, "UPDATE billing.subscriptions SET currency = 'usd' WHERE subscription_id = $1", abroad)
    await _change(rows, "UPDATE billing.payments SET currency = 'usd' WHERE invoice_id = $1", foreign)
    nothing = "refunds = '{}', refunded_amount = 0, status = 'succeeded'"
    await _change(rows, f"UPDATE billing.payments SET {nothing} WHERE refunds ? $1", refunded["id"])
    for kind, id_ in (
        (Kind.SUBSCRIPTION, abroad),
        (Kind.INVOICE, foreign),
        (Kind.REFUND, refunded["id"]),
    ):
        expected[kind, id_] = Cause.UNEXPLAINED

    charge = kit.newest("charge", status="succeeded")["id"]
    await _change(
        rows,
        "INSERT INTO billing.payments (payment_id, account, charge_id, amount, currency, status, paid_at) "
        "SELECT 'pay_copy', account, $1, amount, currency, 'succeeded', paid_at FROM billing.payments "
        "JOIN billing.payment_links USING (payment_id, account) WHERE stripe_id = $1",
        charge,
    )
    await rows.execute("UPDATE billing.payments SET charge_id = $1 WHERE payment_id = 'pay_copy'", charge)
    expected[Kind.CHARGE, charge] = Cause.STORED_TWICE

    known = len(kit.books.events)
    kit.company.stripe.clock.now += 1
    end(kit.books, active[2])
    for event in kit.books.events[known:]:
        if rule_of(event.type) is not None:
            expected[Kind.EVENT, event.id] = Cause.NEVER_ARRIVED
    expected[Kind.SUBSCRIPTION, ended] = Cause.NEVER_ARRIVED

    report = await kit.audit()
    found = {(one.kind, one.id): one for one in report.differences if one.kind is not Kind.TOTAL}
    assert {key: one.cause for key, one in found.items()} == expected
    assert {one.cause for one in report.differences if one.kind is Kind.TOTAL} == {Cause.OF_OBJECTS}

    for repair in sorted({one.repair for one in report.differences if one.repair.startswith("billing re")}):
        result = await kit.billing(tmp_path, repair + (" --settle 0" if "--objects" in repair else ""))
        assert result.exit_code == 0, (repair, result.stdout, result.stderr)
    double = found[Kind.CHARGE, charge]
    assert "pay_copy" in double.fields["payments"][1]
    assert (await kit.billing(tmp_path, double.repair)).exit_code == 0
    await _change(rows, "DELETE FROM billing.payments WHERE payment_id = 'pay_copy'")
    await kit.process_log()
    report = await kit.audit()
    assert report.agrees, report.differences


async def test_D11_an_invoice_that_is_paid_during_the_audit_is_named(
    kit: AuditKit, rows: asyncpg.Connection[Any]
) -> None:
    """It seemed to be paid in the table before it was at Stripe, and is paid when the audit looks again."""
    invoice: Json = max(
        (one for one in kit.books.all("invoice") if one["status"] == "open" and one["amount_remaining"] > 0),
        key=lambda one: (one["created"], one["id"]),
    )
    await _change(rows, "UPDATE billing.payments SET status = 'succeeded' WHERE invoice_id = $1", invoice["id"])
    since = datetime.fromtimestamp(invoice["created"], UTC) - timedelta(days=1)
    auditing = asyncio.create_task(kit.audit(settle_s=2.0, since=since))
    await eventually(lambda: rows.fetchval("SELECT 1 FROM billing.audits WHERE phase = 'check'"))
    known = len(kit.books.events)
    kit.company.stripe.clock.now += 1
    pay_out_of_band(kit.books, invoice)
    report = await auditing
    causes = {one.id: one.cause for one in report.differences if one.kind is Kind.INVOICE}
    assert causes == {invoice["id"]: Cause.CHANGED_MEANWHILE}
    await kit.apply(event.render() for event in kit.books.events[known:])
    report = await kit.audit(since=since)
    assert [one for one in report.differences if one.kind is not Kind.EVENT] == []


async def test_D11_events_at_the_edges_of_a_window_are_those_of_one_window(kit: AuditKit) -> None:
    """The first second of a window belongs to it, and its last one to the next."""
    subscription = next(one for one in kit.books.all("subscription") if one["status"] == "active")
    missed: list[tuple[datetime, str]] = []
    for _ in range(3):
        kit.company.stripe.clock.now += 60
        with kit.books.change(subscription):
            subscription["cancel_at_period_end"] = not subscription["cancel_at_period_end"]
        event = kit.books.events[-1].render()
        missed.append((datetime.fromtimestamp(event["created"], UTC), event["id"]))
    (first, first_id), (second, second_id), (third, third_id) = missed

    async def found(since: datetime, until: datetime) -> set[str]:
        report = await kit.audit(since=since, until=until, fresh=True)
        return {one.id for one in report.differences if one.kind is Kind.EVENT}

    assert await found(first, second) == {first_id}
    assert await found(second, third) == {second_id}
    assert await found(first, third + timedelta(seconds=1)) == {first_id, second_id, third_id}
    assert await found(first + timedelta(seconds=1), second) == set()
