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
from local.stripe.simulator.collection import pay_out_of_band, pay_part
from local.stripe.simulator.customers import attach_card
from local.stripe.simulator.endings import end
from local.stripe.simulator.refunds import refund, refundable
from recovery.audit.differences import Cause, Kind
from streams.rules.catalog import rule_of
from tests.kits.auditkit import AuditKit, open_audit
from tests.waiting import eventually

OF_CHARGE = "payment_id = (SELECT payment_id FROM billing.payment_links WHERE stripe_id = $1)"


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
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url, timeout=30)
    yield connection
    await connection.close(timeout=30)


async def _change(rows: asyncpg.Connection[Any], query: str, *arguments: object) -> None:
    """Change what is stored: exactly one row."""
    done = await rows.execute(query, *arguments, timeout=30)
    assert done.split()[-1] == "1", (done, query)


def _purchases(kit: AuditKit) -> list[Json]:
    """Return the charges of this month that paid a checkout and no invoice."""
    since = kit.books.now - 20 * 86_400
    paid = [one for one in kit.books.all("charge") if one["status"] == "succeeded" and one["captured"]]
    return [one for one in paid if one["created"] >= since and not one.get("_invoice") and not one["amount_refunded"]]


async def _double(rows: asyncpg.Connection[Any], payment_id: str, charge: str, **ids: str) -> None:
    """Store a second payment of a charge, with these ids."""
    names, values = ", ".join(ids), ", ".join(f"${number}" for number in range(3, len(ids) + 3))
    await _change(
        rows,
        f"INSERT INTO billing.payments (payment_id, account, {names}, amount, currency, status, paid_at) "
        f"SELECT $1, account, {values}, amount, currency, 'succeeded', paid_at FROM billing.payments "
        "JOIN billing.payment_links USING (payment_id, account) WHERE stripe_id = $2",
        payment_id,
        charge,
        *ids.values(),
    )


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
    await _double(rows, "pay_copy", charge, charge_id=charge)
    expected[Kind.CHARGE, charge] = Cause.STORED_TWICE

    bought = await rows.fetchval(
        "SELECT charge_id FROM billing.payments WHERE checkout_session_id IS NOT NULL AND invoice_id IS NULL "
        "AND status = 'succeeded' AND charge_id <> $1 ORDER BY paid_at DESC LIMIT 1",
        charge,
    )
    pending = "status = 'pending', paid_at = NULL, fulfilled_at = NULL, version = ''"
    await _change(rows, f"UPDATE billing.payments SET {pending} WHERE charge_id = $1", bought)
    expected[Kind.CHARGE, bought] = Cause.UNEXPLAINED

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


async def test_D11_a_sum_of_refunds_shows_which_of_them_were_lost(kit: AuditKit, tmp_path: Path) -> None:
    """The endpoint is sent only `charge.refunded`: no event says that a refund failed, and a later sum shows it."""
    books, known, charge = kit.books, len(kit.books.events), _purchases(kit)[0]

    def give_back(amount: int, *, is_lost: bool = False) -> str:
        kit.company.stripe.clock.now += 1
        made = refund(books, charge, amount)
        if is_lost:
            made["status"] = "failed"
            charge["amount_refunded"] -= amount
        books.events[known:] = [event for event in books.events[known:] if event.type == "charge.refunded"]
        return str(made["id"])

    lost, kept = give_back(200, is_lost=True), give_back(100)
    await kit.apply(event.render() for event in books.events[known:])
    report = await kit.audit()
    assert report.agrees, report.differences

    last = give_back(50, is_lost=True)
    await kit.apply([books.events[-1].render()])
    report = await kit.audit()
    found = {one.id: one for one in report.differences if one.kind is Kind.REFUND}
    assert found.keys() == {lost, kept, last}
    assert found[last].fields == {"amount": [0, 50], "refunded_amount": [100, 150]}
    for one in found.values():
        assert (await kit.billing(tmp_path, one.repair)).exit_code == 0
    await kit.process_log()
    report = await kit.audit()
    assert report.agrees, report.differences


async def test_D11_a_payment_that_is_stored_twice_is_named_by_each_of_its_ids(
    kit: AuditKit, rows: asyncpg.Connection[Any]
) -> None:
    """Also one of a second part, one without a charge, and one of which more differs. Copies that are gone are not."""
    books, known, bought = kit.books, len(kit.books.events), _purchases(kit)
    (invoice,) = (one for one in books.all("invoice") if one["status"] == "open")
    card = attach_card(books, books.get("customer", invoice["customer"]), "ok", default=False)
    for _ in range(2):
        kit.company.stripe.clock.now += 1
        pay_part(books, invoice, 1000, card)
    await kit.apply(event.render() for event in books.events[known:])
    first = await rows.fetchval("SELECT charge_id FROM billing.payments WHERE invoice_id = $1", invoice["id"])
    (part,) = {one["id"] for one in books.all("charge") if one["amount"] == 1000} - {first}
    await _double(rows, "pay_of_part", part, charge_id=part)
    by_intent, altered = (one["id"] for one in bought[:2])
    await _double(rows, "pay_by_intent", by_intent, payment_intent_id=bought[0]["payment_intent"])
    await _double(rows, "pay_altered", altered, charge_id=altered)
    await _change(rows, f"UPDATE billing.payments SET currency = 'usd' WHERE {OF_CHARGE}", altered)

    report = await kit.audit()
    found = {one.id: one for one in report.differences}
    assert {(one.kind, one.cause) for one in report.differences} == {(Kind.CHARGE, Cause.STORED_TWICE)}
    copies = {part: "pay_of_part", by_intent: "pay_by_intent", altered: "pay_altered"}
    assert {id_: set(one.fields) for id_, one in found.items() if one.fields["payments"][1].count(copies[id_])} == {
        part: {"payments"},
        by_intent: {"payments"},
        altered: {"payments", "currency"},
    }

    auditing = asyncio.create_task(kit.audit(settle_s=2.0))
    await eventually(lambda: rows.fetchval("SELECT 1 FROM billing.audits WHERE phase = 'check' AND ended_at IS NULL"))
    await rows.execute("DELETE FROM billing.payments WHERE payment_id = ANY($1::text[])", list(copies.values()))
    report = await auditing
    assert {one.id: set(one.fields) for one in report.differences} == {altered: {"currency"}}
    await _change(rows, f"UPDATE billing.payments SET currency = 'eur' WHERE {OF_CHARGE}", altered)
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
