"""An existing Stripe account is imported through the log, once, and no one is mailed (behaviours.md F1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from analytics.facts import fact_of
from local.stripe.simulator.company import Company
from local.stripe.simulator.server import TEST_KEY, Fault, StripeServer
from recovery.imports.objects import entries_of
from sinks.stripe_api.listing import Page
from tests.kits.reconcilekit import NOW, ReconcileKit, open_kit
from tests.kits.rulekit import MAKERS


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


@pytest.fixture
async def stripe() -> AsyncIterator[StripeServer]:
    company = Company(customers=160, months=2, seed=3, until=int(NOW.timestamp()))
    company.run()
    async with StripeServer(company.stripe) as server:
        yield server


async def imported(desk: ReconcileKit, stripe: StripeServer, folder: Path, *options: str, code: int = 0) -> Any:
    ended = await desk.ask_billing(
        folder, "import", "--json", *options,
        BILLING_STRIPE_API_BASE=stripe.url, BILLING_STRIPE_API_KEY=TEST_KEY, BILLING_STATE_DIR=str(folder),
    )  # fmt: skip
    assert ended.exit_code == code, ended.stderr
    return orjson.loads(ended.stdout.splitlines()[-1]) if code == 0 else ended.stderr


async def rows(desk: ReconcileKit, query: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(desk.settings.database_url.get_secret_value())
    try:
        return [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_a_company_is_imported_once_without_mails(
    desk: ReconcileKit, stripe: StripeServer, tmp_path: Path
) -> None:
    report = await imported(desk, stripe, tmp_path)
    books = stripe.stripe.books
    assert report["read"]["customers"] == sum(not one.get("deleted") for one in books.all("customer")) > 100
    assert report["read"]["subscriptions"] == len(books.all("subscription")) > 0
    outcomes = await desk.process()

    assert "dead" not in outcomes
    stored = await rows(desk, "SELECT subscription_id, status FROM billing.subscriptions")
    assert {row["subscription_id"]: row["status"] for row in stored} == {
        one["id"]: one["status"] for one in books.all("subscription")
    }
    left = await rows(desk, "SELECT DISTINCT status FROM billing.emails UNION SELECT status FROM billing.stripe_calls")
    assert {row["status"] for row in left} <= {"withheld"}
    past = "SELECT kind FROM billing.timers WHERE status = 'pending' AND due_at < now() AND kind <> 'dispute-link'"
    assert {row["kind"] for row in await rows(desk, past)} <= {"retry"}
    sources = Counter(record.headers["source"] for record in await asyncio.to_thread(desk.records))
    assert sources == {"import": report["appended"]}

    before = await rows(desk, "SELECT * FROM billing.subscriptions ORDER BY subscription_id")
    assert (await imported(desk, stripe, tmp_path))["appended"] == report["appended"]
    assert await desk.process() == outcomes
    assert await rows(desk, "SELECT * FROM billing.subscriptions ORDER BY subscription_id") == before


async def test_an_interrupted_import_continues_at_its_page(
    desk: ReconcileKit, stripe: StripeServer, tmp_path: Path
) -> None:
    books = stripe.stripe.books
    customers = [one for one in books.all("customer") if not one.get("deleted")]
    key, stripe.key = stripe.key, "sk_test_revoked"
    assert "Invalid API Key" in await imported(desk, stripe, tmp_path, code=1)
    stripe.key = key
    last = sorted(customers, key=lambda one: -one["created"])[-11]["id"]
    progress = {"part": "customers", "after": last, "since": int(NOW.timestamp()) - 90 * 86_400}
    (tmp_path / "import-own.json").write_bytes(orjson.dumps(progress))
    stripe.faults.extend([Fault.RATE_LIMIT, Fault.SERVER_ERROR])

    rest = await imported(desk, stripe, tmp_path)
    assert rest["resumed_at"] == "customers"
    assert rest["read"]["customers"] == 10
    assert rest["read"]["subscriptions"] == len(books.all("subscription"))
    assert not (tmp_path / "import-own.json").exists()

    (tmp_path / "import-own.json").write_text("?")
    assert "--restart" in await imported(desk, stripe, tmp_path, code=1)
    assert (await imported(desk, stripe, tmp_path, "--restart"))["read"]["customers"] == len(customers)


@pytest.mark.parametrize("make", MAKERS, ids=str)
@pytest.mark.parametrize("ended", [True, False])
def test_mrr_is_dated_by_the_real_start(make: Any, ended: bool) -> None:
    start, end = 1_750_000_000, 1_760_000_000
    over = {"status": "canceled", "ended_at": end, "canceled_at": end} if ended else {}
    obj = make.subscription(start=start, **over)
    page = Page([], False, NOW, "req_1", str(make.shape))
    facts = [fact_of(entry.value) for entry in entries_of(obj, page, account="", livemode=False, now=NOW)]

    found = [(fact.created, fact.data["status"]) for fact in facts if fact is not None]
    began = (datetime.fromtimestamp(start, UTC), "active")
    assert found == ([began, (datetime.fromtimestamp(end, UTC), "canceled")] if ended else [began])
