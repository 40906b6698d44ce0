"""`billing audit`: the books agree, or each difference is found, named and repaired (D11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.simulator.books import Json
from local.stripe.simulator.lists import Api, ApiError
from local.stripe.simulator.refunds import refund, refundable
from local.stripe.simulator.server import Fault
from recovery.audit.differences import Cause, Kind
from schemas.effects import Effect
from schemas.record import Source
from schemas.version import version
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.harness import record
from tests.kits.auditkit import AuditKit, open_audit
from tests.kits.reconcilekit import send
from tests.kits.storekit import fetch
from tests.waiting import eventually

LATE = {Cause.NOT_YET_APPLIED, Cause.OF_OBJECTS, Cause.CHANGED_MEANWHILE}
UPDATED = "customer.subscription.updated"


@pytest.fixture
async def kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[AuditKit]:
    async with open_audit(kafka_bootstrap, database, topic_prefix) as opened:
        for _ in range(2):  # one refund is altered and one is removed below
            charge = next(one for one in opened.books.all("charge") if refundable(one) > 500)
            refund(opened.books, charge, 200)
        await opened.apply(event.render() for event in opened.company.stripe.events())
        yield opened


async def _rows_of(kit: AuditKit, subscription_id: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM billing.subscriptions WHERE subscription_id = $1"
    return await fetch(kit.desk.settings.database_url, query, subscription_id)


async def _do(kit: AuditKit, query: str, *arguments: object) -> None:
    """Change what is stored. The query must change exactly one row."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        kit.desk.settings.database_url.get_secret_value(), timeout=30
    )
    try:
        done = await connection.execute(query, *arguments, timeout=30)
        assert done.split()[-1] == "1", (done, query)
    finally:
        await connection.close(timeout=30)


def _change(kit: AuditKit, subscription: Json) -> Json:
    """Change the subscription at Stripe, and return the event, which has not been delivered."""
    kit.company.stripe.clock.now += 1
    with kit.books.change(subscription):
        subscription["cancel_at_period_end"] = not subscription["cancel_at_period_end"]
    return kit.books.events[-1].render()


async def test_D11_the_books_of_a_simulated_company_agree(kit: AuditKit) -> None:
    report = await kit.audit()
    assert report.agrees, report.differences
    assert report.counts["events"] > 100
    assert {total.what for total in report.totals} == {"paid", "refunded"}
    assert sum(total.stripe for total in report.totals if total.what == "paid") > 0


async def test_D11_every_difference_is_found_named_and_repaired(kit: AuditKit, tmp_path: Path) -> None:
    subs = [one for one in kit.books.all("subscription") if one["status"] == "active"]
    never, dead, stale, late, priced, altered, removed, forgotten = subs[:8]
    invoices = [one for one in kit.books.all("invoice") if one["status"] == "paid" and one["amount_paid"] > 500]
    invoices = sorted(invoices, key=lambda one: one["created"])[-3:]
    changed, lost, moved = (one["id"] for one in invoices)
    refunds = [one["id"] for one in kit.books.all("refund") if one["amount"] == 200][-2:]
    expected: dict[tuple[Kind, str], Cause] = {}

    expected[Kind.EVENT, _change(kit, never)["id"]] = Cause.NEVER_ARRIVED
    expected[Kind.SUBSCRIPTION, never["id"]] = Cause.NEVER_ARRIVED

    death = _change(kit, dead)
    await _die(kit, death)
    expected[Kind.EVENT, death["id"]] = expected[Kind.SUBSCRIPTION, dead["id"]] = Cause.DEAD

    event = _change(kit, stale)
    set_version = "UPDATE billing.subscriptions SET version = $2, items_version = $2 WHERE subscription_id = $1"
    await _do(kit, set_version, stale["id"], version(event["created"] + 600, 50, "evt_zz"))
    await kit.apply([event])
    expected[Kind.SUBSCRIPTION, stale["id"]] = Cause.STALE

    event = _change(kit, late)
    await send(kit.desk, [event])
    expected[Kind.EVENT, event["id"]] = expected[Kind.SUBSCRIPTION, late["id"]] = Cause.NOT_YET_APPLIED

    await _do(kit, "UPDATE billing.subscriptions SET plan = NULL WHERE subscription_id = $1", priced["id"])
    expected[Kind.SUBSCRIPTION, priced["id"]] = Cause.UNKNOWN_PRICE
    await _do(kit, "UPDATE billing.subscriptions SET status = 'past_due' WHERE subscription_id = $1", altered["id"])
    await _do(kit, "DELETE FROM billing.subscriptions WHERE subscription_id = $1", removed["id"])
    await _do(kit, "UPDATE billing.payments SET amount = amount + 1 WHERE invoice_id = $1", changed)
    await _do(kit, "DELETE FROM billing.payments WHERE invoice_id = $1", lost)
    await _do(kit, "UPDATE billing.payments SET paid_at = paid_at - interval '3 days' WHERE invoice_id = $1", moved)
    add = "jsonb_set(refunds, ARRAY[$1, 'amount'], '150')"
    await _do(kit, f"UPDATE billing.payments SET refunds = {add} WHERE refunds ? $1", refunds[0])
    for id_ in (altered["id"], removed["id"]):
        expected[Kind.SUBSCRIPTION, id_] = Cause.UNEXPLAINED
    for id_ in (changed, lost, moved):
        expected[Kind.INVOICE, id_] = Cause.UNEXPLAINED
    expected[Kind.REFUND, refunds[0]] = Cause.UNEXPLAINED
    del kit.books.objects["subscription"][forgotten["id"]]
    expected[Kind.SUBSCRIPTION, forgotten["id"]] = Cause.UNKNOWN_TO_STRIPE

    report = await kit.audit()
    found = {(one.kind, one.id): one for one in report.differences if one.kind is not Kind.TOTAL}
    assert {key: one.cause for key, one in found.items()} == expected
    totals = [one for one in report.differences if one.kind is Kind.TOTAL]
    assert totals
    assert {one.cause for one in totals} == {Cause.OF_OBJECTS}

    for repair in sorted({one.repair for one in report.differences if one.repair.startswith("billing re")}):
        # Nothing is on its way to the tables, so there is no reason to wait before a second look.
        ended = await kit.billing(tmp_path, repair + (" --settle 0" if "--objects" in repair else ""))
        assert ended.exit_code == 0, (repair, ended.stdout, ended.stderr)
    (command,) = {one.repair for one in report.differences if one.cause is Cause.DEAD}
    ended = await kit.billing(tmp_path, command)
    assert ended.exit_code == 0, (command, ended.stdout, ended.stderr)
    await kit.process_log()

    report = await kit.audit()
    assert [(one.id, one.cause) for one in report.differences] == [(forgotten["id"], Cause.UNKNOWN_TO_STRIPE)], (
        report.differences
    )
    before = await _rows_of(kit, forgotten["id"])
    (repair,) = {one.repair for one in report.differences}
    ended = await kit.billing(tmp_path, repair)
    assert (ended.exit_code, forgotten["id"] in ended.stdout) == (0, True), (repair, ended.stdout, ended.stderr)
    assert await _rows_of(kit, forgotten["id"]) == before  # naming it is the repair: the row is kept
    kit.books.objects["subscription"][forgotten["id"]] = forgotten
    assert (await kit.audit()).agrees


async def _die(kit: AuditKit, event: Json) -> None:
    """Process the event with a rule that fails, after it was appended to the log."""

    def broken(*_: object) -> list[Effect]:
        raise AttributeError("'Subscription' object has no attribute 'usr'")

    await send(kit.desk, [event])
    letters = DeadLetterPublisher(kit.desk.settings.kafka, kit.desk.settings.dead_topic)
    processor = Processor(
        store=kit.desk.store,
        dead_letters=letters,
        rules={**RULES, UPDATED: replace(RULES[UPDATED], decide=broken)},
        config=kit.config,
        group=f"{kit.desk.settings.topic_prefix}.worker",
        code_version="1",
    )
    records = await asyncio.to_thread(kit.desk.records)
    await processor.process([one for one in records if one.headers["event_id"] == event["id"]])
    await asyncio.to_thread(letters.close)


async def test_D11_what_changes_at_stripe_meanwhile_is_named(kit: AuditKit) -> None:
    """The subscription changes once more while the audit waits before it reads what differs again."""
    subscription = next(one for one in kit.books.all("subscription") if one["status"] == "active")
    query = "UPDATE billing.subscriptions SET status = 'past_due' WHERE subscription_id = $1"
    await _do(kit, query, subscription["id"])
    auditing = asyncio.create_task(kit.audit(settle_s=2.0))
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        kit.desk.settings.database_url.get_secret_value(), timeout=30
    )
    try:
        await eventually(lambda: connection.fetchval("SELECT 1 FROM billing.audits WHERE phase = 'check'"))
    finally:
        await connection.close(timeout=30)
    event = _change(kit, subscription)
    report = await auditing
    assert [(one.id, one.cause) for one in report.differences] == [(subscription["id"], Cause.CHANGED_MEANWHILE)]
    await kit.apply([event])
    assert (await kit.audit()).agrees


async def test_D11_an_interrupted_audit_is_resumed(kit: AuditKit) -> None:
    """429, 500 and dropped answers are retried. An API that stops answering ends the run, which continues later."""
    kit.server.retry_after_s = 0
    kit.server.faults.extend([Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.DROP])
    assert (await kit.audit()).agrees
    healthy = len(kit.server.requests)

    kit.server.slow_s = 0.0
    kit.server.faults.extend([Fault.SLOW] * (healthy - 3 - 2) + [Fault.HANG] * 4)
    stopped = await kit.audit(total_s=0.5)
    assert (stopped.is_unavailable, stopped.agrees) == (True, False)
    asked = len(kit.server.requests)
    kit.server.faults.clear()

    resumed = await kit.audit()
    assert (resumed.is_resumed, resumed.run_id) == (True, stopped.run_id)
    assert resumed.agrees, resumed.differences
    assert resumed.counts["events"] > 100
    assert len(kit.server.requests) - asked < healthy - 3
    assert not (await kit.audit()).is_resumed


async def test_D11_what_cannot_be_read_is_said_and_kept(kit: AuditKit) -> None:
    """No items, no amount, an unknown currency, a deleted price: nothing is guessed, and the run goes on."""
    active = [one for one in kit.books.all("subscription") if one["status"] == "active"]
    empty, without_amount, strange = active[:3]
    empty["items"] = {"object": "list", "data": [], "has_more": False, "url": ""}
    for item in without_amount["items"]["data"]:
        item["price"] = {**item["price"], "unit_amount": None, "unit_amount_decimal": None, "active": False}
    strange["status"] = "on_holiday"
    invoices = [one for one in kit.books.all("invoice") if one["status"] == "paid"]
    invoice = max(invoices, key=lambda one: one["created"])
    invoice["currency"] = "unknown"

    report = await kit.audit()
    found = {one.id: one.cause for one in report.differences if one.kind is not Kind.TOTAL}
    assert found == {
        empty["id"]: Cause.INCOMPLETE,
        strange["id"]: Cause.UNREADABLE,
        invoice["id"]: Cause.UNREADABLE,
    }
    assert report.trouble is None


async def test_D11_one_object_that_is_refused_or_gone_does_not_end_the_run(
    kit: AuditKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, and then not to be had: refused as such, or deleted before it was ever stored."""
    refused = next(one["id"] for one in kit.books.all("subscription") if one["status"] == "active")
    gone = kit.newest("invoice", status="paid")["id"]
    await _do(kit, "UPDATE billing.subscriptions SET status = 'past_due' WHERE subscription_id = $1", refused)
    await _do(kit, "DELETE FROM billing.payments WHERE invoice_id = $1", gone)
    retrieve = Api.retrieve

    def odd(api: Api, resource: str, id_: str, query: Mapping[str, str]) -> Json:
        if id_ == refused:
            raise ApiError(400, "This subscription cannot be shown in this version")
        if id_ == gone:
            raise ApiError(404, "No such invoice", "resource_missing")
        return retrieve(api, resource, id_, query)

    monkeypatch.setattr(Api, "retrieve", odd)
    report = await kit.audit()
    assert (report.trouble, [(one.id, one.cause) for one in report.differences]) == (
        None,
        [(refused, Cause.UNREADABLE)],
    )
    monkeypatch.undo()
    report = await kit.audit()
    assert {one.id: one.cause for one in report.differences if one.kind is not Kind.TOTAL} == {
        refused: Cause.UNEXPLAINED,
        gone: Cause.UNEXPLAINED,
    }


async def test_D11_an_event_that_stripe_never_sent_is_found(kit: AuditKit) -> None:
    event = kit.books.all("customer")[-1]
    made = {
        "id": "evt_forged", "object": "event", "type": "customer.updated", "livemode": False,
        "created": int(datetime.now(UTC).timestamp()) - 1800, "api_version": "2025-03-31.basil",
        "data": {"object": {**event, "name": "X"}}, "request": None,
    }  # fmt: skip
    await kit.apply([orjson.loads(orjson.dumps(made))])
    report = await kit.audit()
    assert [(one.id, one.cause) for one in report.differences] == [("evt_forged", Cause.UNKNOWN_TO_STRIPE)]
    assert record(made, Source.STRIPE).headers["event_id"] == "evt_forged"


async def test_D11_the_command_ends_in_one_line(kit: AuditKit, tmp_path: Path) -> None:
    """Exit 0 and `agrees`, or 1 and the differences, also as JSON."""
    subscription = next(one for one in kit.books.all("subscription") if one["status"] == "active")
    ended = await kit.billing(tmp_path, "billing audit --since 29d --settle 0")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "own account: the books agree"
    query = "UPDATE billing.subscriptions SET status = 'past_due' WHERE subscription_id = $1"
    await _do(kit, query, subscription["id"])
    ended = await kit.billing(tmp_path, "billing audit --since 29d --settle 0 --json")
    assert ended.exit_code == 1
    (report,) = orjson.loads(ended.stdout.splitlines()[-1])
    (found,) = report["differences"]
    assert found["repair"] == f"billing reconcile --object {subscription['id']}"
    assert found["fields"]["status"] == {"stripe": "active", "table": "past_due"}
