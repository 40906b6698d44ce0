"""The view `billing.access` on the real store, and the backfill of rows of before it (behaviours.md B7, B8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from schemas.references import References
from schemas.state import Customer, Organization, Subscription
from schemas.statuses import OrganizationStatus, SubscriptionStatus
from schemas.version import Version
from sinks.postgres.backfill import BACKFILLS, run_backfills
from sinks.postgres.gauges import StoreGauges
from sinks.postgres.pool import connect
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import ask, customers, known, loaded, write

NOW = datetime.now(UTC)
AFTER = {"plan": "free", "limits": {}, "has_access": False, "reason": "grace_ended", "changes_at": None}
ORGANIZATION = Organization(
    organization_id=Organization.id_of("", "cus_1"),
    account="",
    customer_id="cus_1",
    name="Jane",
    status=OrganizationStatus.PAYMENT_FAILED,
    plan="pro",
    limits={"seats": 5},
    has_access=True,
    access_reason="past_due",
    access_after=AFTER,
)
VIEW = "SELECT row(plan, has_access, reason)::text FROM billing.access WHERE customer_id = 'cus_1'"


@pytest.fixture
async def store(database: SecretStr) -> AsyncIterator[Store]:
    opened = await Store.connect(database, pool_size=1)
    yield opened
    await opened.close()


async def _save(store: Store, *rows: Customer | Organization | Subscription) -> None:
    stored = tuple(await loaded(store, customers("cus_1")))
    await write(store, Flush(known=known(*rows, stored=stored)))


async def test_B8_the_view_has_the_access_of_now(store: Store, database: SecretStr) -> None:
    """The end of a grace time needs no event. The version grows with each change."""
    version = "SELECT version FROM billing.access WHERE customer_id = 'cus_1'"
    await _save(store, replace(ORGANIZATION, access_until=NOW + timedelta(days=1)))
    assert await ask(database, VIEW) == "(pro,t,past_due)"
    first = await ask(database, version)
    await _save(store, replace(ORGANIZATION, access_until=NOW - timedelta(days=1)))
    assert await ask(database, VIEW) == "(free,f,grace_ended)"
    second = await ask(database, version)
    await _save(store, replace(ORGANIZATION, access_until=NOW - timedelta(days=1), name="Another name"))
    assert await ask(database, version) == second > first


async def test_B8_the_view_knows_the_end_of_each_grace_time(store: Store, database: SecretStr) -> None:
    """Two subscriptions are past due: the larger plan ends first, then the smaller, and no event arrives in between."""
    smaller = {**AFTER, "plan": "starter", "has_access": True, "reason": "past_due"}
    version = "SELECT version FROM billing.access WHERE customer_id = 'cus_1'"
    versions: list[int] = []
    times = ((1, 2, "(pro,t,past_due)"), (-1, 2, "(starter,t,past_due)"), (-2, -1, "(free,f,grace_ended)"))
    for first, second, seen in times:
        then = [{"until": (NOW + timedelta(days=second)).isoformat(), **AFTER}]
        after = {**smaller, "then": then}
        await _save(store, replace(ORGANIZATION, access_until=NOW + timedelta(days=first), access_after=after))
        assert await ask(database, VIEW) == seen
        versions.append(await ask(database, version))
    assert versions == sorted(set(versions))


async def test_B8_the_version_grows_also_over_a_rebuild_and_a_restore(store: Store, database: SecretStr) -> None:
    """They count fewer changes than the database that readers have seen, so the clock is a part of the version."""
    version = "SELECT version FROM billing.access WHERE customer_id = 'cus_1'"
    for plan in ("starter", "pro", "team"):
        await _save(store, replace(ORGANIZATION, plan=plan))
    seen = await ask(database, version)
    await ask(database, "DELETE FROM billing.organizations")  # as in an empty database that a rebuild begins with
    await _save(store, replace(ORGANIZATION, plan="team"))
    rebuilt = await ask(database, version)
    assert rebuilt > seen
    await ask(database, "UPDATE billing.organizations SET access_version = 1")  # an old row, as a backup has it
    await _save(store, replace(ORGANIZATION, plan="pro"))
    restored = await ask(database, version)
    assert restored > rebuilt
    ahead = 4_000_000_000_000  # written while the server's clock was wrong
    await ask(database, "UPDATE billing.organizations SET access_version = $1", ahead)
    await _save(store, replace(ORGANIZATION, plan="team"))
    assert await ask(database, version) == (ahead + 1) * 32


async def test_B8_a_changed_user_is_a_new_version(store: Store, database: SecretStr) -> None:
    """The view has the customer's user. Other changes of the customer are not in it."""
    version = "SELECT version FROM billing.access WHERE customer_id = 'cus_1'"
    await _save(store, ORGANIZATION)
    versions = [await ask(database, version)]
    for user_id in ("42", "43", None):
        await _save(store, Customer(account="", customer_id="cus_1", user_id=user_id))
        versions.append(await ask(database, version))
    assert versions == sorted(set(versions))
    await _save(store, Customer(account="", customer_id="cus_1", email="jane@example.com"))
    assert await ask(database, version) == versions[-1]


async def test_B7_a_price_in_no_plan_is_counted(store: Store, database: SecretStr) -> None:
    registry = CollectorRegistry()
    gauges = StoreGauges(registry)
    row = Subscription(account="", subscription_id="sub_1", customer_id="cus_1", price_id="price_odd")
    for plan, count in ((None, 1.0), ("pro", 0.0)):
        await _save(store, replace(row, plan=plan))
        await gauges.look(database)
        assert registry.get_sample_value("billing_unknown_prices") == count


async def test_rows_of_before_get_what_stripe_said_last(store: Store, database: SecretStr) -> None:
    """A guess from an invoice is replaced by the status of the newest event, and so are items and scheduled ends."""
    row = Subscription(
        account="",
        subscription_id="sub_1",
        customer_id="cus_1",
        status=SubscriptionStatus.PAST_DUE,
        price_id="price_pro",
        plan="pro",
        version=Version("0:001800000000:50:evt_9"),
    )
    await _save(store, row, replace(ORGANIZATION, has_access=False, access_reason="", access_after={}))
    price = {"id": "price_pro", "currency": "eur", "unit_amount": 2000}
    recurring = {"recurring": {"interval": "month", "interval_count": 1}}
    shown = {
        "status": "active",
        "currency": "eur",
        "latest_invoice": "in_1",
        "cancel_at": 1_900_000_000,
        "pause_collection": None,
        "items": {"data": [{"id": "si_1", "quantity": 3, "price": price | recurring}]},
    }
    await ask(
        database,
        "INSERT INTO billing.events (event_id, type, stream, outcome, payload) "
        "VALUES ('evt_9', 't', 's', 'applied', $1::jsonb)",
        orjson.dumps({"data": {"object": shown}}).decode(),
    )
    connection = await connect(database, application="test")
    worked = await run_backfills(connection, BACKFILLS_OF_ACCESS)
    connection.terminate()
    assert list(worked.values()) == [1, 1]
    (after,) = (
        found
        for found in await loaded(store, References(subscriptions={("", "sub_1")}))
        if isinstance(found, Subscription)
    )
    assert (after.status, after.stripe_status) == (SubscriptionStatus.ACTIVE, SubscriptionStatus.ACTIVE)
    assert (after.latest_invoice, after.cancel_at) == ("in_1", datetime.fromtimestamp(1_900_000_000, UTC))
    (item,) = after.items
    assert (item["price"], item["quantity"], item["unit_amount"], item["interval"]) == ("price_pro", 3, 2000, "month")
    assert await ask(database, VIEW) == "(pro,t,active)"
    assert await ask(database, "SELECT status FROM billing.organizations") == "active"


BACKFILLS_OF_ACCESS = [replace(one, name=f"again_{one.name}") for one in BACKFILLS if one.name.startswith("0012_")]
"""Under other names: the database is a copy of one in which they are done."""
