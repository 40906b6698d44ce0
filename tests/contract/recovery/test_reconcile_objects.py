"""Differences between Stripe's objects and the tables are reported field by field, and repaired through the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from local.stripe.builder import StripeEvents
from recovery.reconcile.objects import ObjectComparison, repair
from tests.kits.reconcilekit import NOW, ReconcileKit, open_kit, send
from tests.kits.storekit import ask
from tests.kits.stripelist import Json


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


def subscription(number: int, **more: Any) -> Json:
    start = int(NOW.timestamp()) - 1000
    return StripeEvents().subscription(f"sub_{number}", customer=f"cus_{number}", start=start, **more)


def invoice(number: int, **more: Any) -> Json:
    at = int(NOW.timestamp()) - 900
    return StripeEvents().invoice(
        f"in_{number}", customer=f"cus_{number}", subscription=f"sub_{number}", created=at, **more
    )


async def test_drift_is_reported_field_by_field_and_repaired_through_the_log(desk: ReconcileKit) -> None:
    """An unknown subscription, a cancelled one, and a payment that failed here but succeeded at Stripe."""
    make, at = StripeEvents(), int(NOW.timestamp()) - 800
    before = [
        make.event("customer.subscription.created", subscription(number), at, id_=f"evt_s{number}")
        for number in (1, 2, 3)
    ]
    before += [make.event("invoice.payment_failed", invoice(2), at, id_="evt_f2")]
    before += [make.event("invoice.paid", invoice(3, status="paid"), at, id_="evt_p3")]
    await send(desk, before)
    await desk.process()
    later = int(NOW.timestamp()) - 100
    desk.stripe.lists = {
        ("", "subscriptions"): [
            subscription(1, status="canceled", canceled_at=later, ended_at=later),
            subscription(2),
            subscription(3),
            subscription(4, cancel_at_period_end=True),
        ],
        ("", "invoices"): [invoice(1), invoice(2, status="paid", paid_at=at + 10), invoice(3, status="paid")],
    }
    wired = await desk.reconciler()
    wired.runs.close()
    comparison = await ObjectComparison.connect(wired.lists, desk.settings.database_url)
    report = await comparison.drift("", NOW - timedelta(days=30), settle_s=0)

    assert report.trouble is None
    assert report.compared == {"subscription": 4, "invoice": 3}
    drifts = {drift.id: drift for drift in report.drifts}
    assert drifts.keys() == {"sub_1", "sub_2", "sub_4", "in_2"}
    assert drifts["sub_1"].fields == {"status": ("canceled", "active")}
    assert drifts["sub_2"].fields == {"status": ("active", "past_due")}
    assert drifts["sub_4"].missing
    assert drifts["in_2"].fields == {"paid": (True, False)}

    queued = await repair(report.drifts, desk.log, livemode=False, clock=lambda: NOW)
    assert queued == 4
    sources = Counter(record.headers["source"] for record in await asyncio.to_thread(desk.records))
    assert sources == {"stripe": 5, "reconcile": 4}
    await desk.process()
    assert (await comparison.drift("", NOW - timedelta(days=30), settle_s=0)).drifts == []
    query = "SELECT count(*) FROM billing.emails WHERE template = 'payment-receipt' AND customer_id = 'cus_2'"
    assert await ask(desk.settings.database_url, query) == 1
    comparison.close()


async def test_the_command_compares_and_repairs(desk: ReconcileKit, tmp_path: Path) -> None:
    desk.stripe.lists = {("", "subscriptions"): [subscription(1)]}
    comparison = await desk.ask_billing(tmp_path, "reconcile", "--objects", "--settle", "0", "--json")
    assert comparison.exit_code == 1, comparison.stderr
    (report,) = orjson.loads(comparison.stdout.splitlines()[-1])
    assert report["by_field"] == {"missing": 1}
    repaired = await desk.ask_billing(tmp_path, "reconcile", "--objects", "--repair", "--settle", "0")
    assert repaired.exit_code == 0
    assert "1 subscriptions compared, 1 differ, 1 queued" in repaired.stdout
    assert await desk.process() == {"applied": 1}


async def test_one_run_compares_and_repairs_everything(desk: ReconcileKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects differ than are held in memory, and more than a report describes."""
    monkeypatch.setattr("recovery.reconcile.objects.AT_ONCE", 200)
    monkeypatch.setattr("recovery.reconcile.objects.REPORTED", 100)
    desk.stripe.lists = {("", "subscriptions"): [subscription(number) for number in range(250)]}
    wired = await desk.reconciler()
    wired.runs.close()
    comparison = await ObjectComparison.connect(wired.lists, desk.settings.database_url)
    since, seen = NOW - timedelta(days=30), list[int]()
    report = await comparison.drift(
        "",
        since,
        settle_s=0,
        repair=partial(repair, event_log=desk.log, livemode=False, clock=lambda: NOW),
        progress=lambda so_far: seen.append(so_far.compared.total()),
    )
    assert (report.differing, report.queued, len(report.drifts)) == (250, 250, 100)
    assert report.by_field == {"missing": 250}
    assert seen[:2] == [100, 200]
    assert await desk.process() == {"applied": 250}
    assert (await comparison.drift("", since, settle_s=0)).differing == 0
    comparison.close()
