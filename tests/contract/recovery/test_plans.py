"""A changed config of plans reaches existing customers through the log, once, and without mails (behaviours.md F6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.builder import Price, StripeEvents
from schemas.settings import load_config
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.reconcilekit import NOW, ReconcileKit, open_kit, send

MAKE = StripeEvents()
AT = int(NOW.timestamp()) - 5000

OLD = """
[plans.free]
name = "Free"
limits = { seats = 1 }
[plans.pro]
name = "Pro"
prices = ["price_pro"]
limits = { seats = 50 }
[plans.team]
name = "Team"
prices = ["price_team"]
limits = { seats = 500 }
"""


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


class Shop:
    """The system with a config that can change."""

    def __init__(self, desk: ReconcileKit, folder: Path) -> None:
        self.desk, self.folder, self.path = desk, folder, folder / "plans.toml"
        self.write(OLD)

    def write(self, plans: str) -> None:
        self.path.write_text('[endpoints.default]\nsecrets = ["whsec_1"]\n' + plans)

    async def subscribe(self, count: int, price: str, *, first: int = 0, **more: Any) -> None:
        numbers = range(first, first + count)
        made = [
            MAKE.subscription(f"sub_{at}", customer=f"cus_{at}", price=Price(price), start=AT, **more) for at in numbers
        ]
        await send(self.desk, [MAKE.event("customer.subscription.created", one, AT) for one in made])
        await self.work()

    async def work(self) -> None:
        """Processes the log with the present config."""
        letters = DeadLetterPublisher(self.desk.settings.kafka, self.desk.settings.dead_topic)
        processor = Processor(
            store=self.desk.store, dead_letters=letters, rules=RULES, config=load_config(self.path),
            group="test.worker", code_version="1",
        )  # fmt: skip
        await processor.process(self.desk.records())
        letters.close()

    async def plans(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        ended = await self.desk.ask_billing(self.folder, "plans", *arguments, "--json", BILLING_CONFIG=str(self.path))
        assert ended.exit_code == code, ended.stderr
        found: dict[str, Any] = orjson.loads(ended.stdout.splitlines()[-1])
        return found

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.desk.settings.database_url.get_secret_value())
        try:
            return [tuple(row.values()) for row in await connection.fetch(query)]
        finally:
            await connection.close()


LIMITS = "SELECT limits->>'seats', count(*) FROM billing.organizations GROUP BY 1 ORDER BY 1"
MAILS = "SELECT count(*) FROM billing.emails"


async def test_a_changed_limit_reaches_every_customer_of_the_plan_once(desk: ReconcileKit, tmp_path: Path) -> None:
    shop = Shop(desk, tmp_path)
    await shop.subscribe(22, "price_pro")
    await shop.subscribe(3, "price_team", first=100)
    before = await shop.rows(MAILS)
    assert (await shop.plans("check"))["differing"] == 0

    shop.write(OLD.replace("seats = 50 }", "seats = 80 }"))
    expected = {"pro: limits.seats 50 → 80": 22}
    assert (await shop.plans("check", code=1))["changes"] == expected
    dry = await shop.plans("apply", "--dry-run")
    assert (dry["differing"], dry["queued"], dry["changes"]) == (22, 0, expected)
    await shop.work()
    assert await shop.rows(LIMITS) == [("50", 22), ("500", 3)]

    assert (await shop.plans("apply"))["queued"] == 22
    await shop.work()
    assert await shop.rows(LIMITS) == [("500", 3), ("80", 22)]
    assert (await shop.plans("apply"))["queued"] == 0
    assert await shop.rows(MAILS) == before
    sources = "SELECT source, outcome, count(*) FROM billing.events WHERE type = 'plans.applied' GROUP BY 1, 2"
    assert await shop.rows(sources) == [("operator", "applied", 22)]


async def test_a_price_that_no_plan_names_is_listed_with_its_customers(desk: ReconcileKit, tmp_path: Path) -> None:
    shop = Shop(desk, tmp_path)
    await shop.subscribe(4, "price_old")
    await shop.subscribe(1, "price_pro", first=10)
    await shop.subscribe(1, "price_gone", first=20, status="canceled", ended_at=AT)

    found = await shop.plans("check", code=1)
    assert found["unknown_prices"] == {"price_old": 4}
    assert found["unused_prices"] == ["price_team"]
    assert found["differing"] == 0


async def test_a_renamed_plan_and_a_new_price_change_access_without_mails(desk: ReconcileKit, tmp_path: Path) -> None:
    shop = Shop(desk, tmp_path)
    await shop.subscribe(2, "price_old")
    await shop.subscribe(3, "price_pro", first=10)
    before = await shop.rows(MAILS)

    shop.write(OLD.replace("[plans.pro]", "[plans.plus]").replace('["price_team"]', '["price_team", "price_old"]'))
    found = await shop.plans("apply")
    assert found["changes"] == {"no known plan → team": 2, "pro → plus": 3}
    await shop.work()
    assert await shop.rows("SELECT plan, count(*) FROM billing.subscriptions GROUP BY 1 ORDER BY 1") == [
        ("plus", 3), ("team", 2),
    ]  # fmt: skip
    assert await shop.rows(MAILS) == before
    assert (await shop.plans("check"))["differing"] == 0
