"""`billing migrate` on a database of the first version, with rows in its tables: each data migration has work."""

from __future__ import annotations

from alembic import command
from pydantic import SecretStr
from sqlalchemy import Connection, text

from sinks.postgres.backfill import BACKFILLS
from sinks.postgres.migration import Migrated, alembic_config, migrate
from sinks.postgres.pool import make_engine
from sinks.postgres.revisions import newest_revision
from tests.kits.storekit import ask

FIRST = "0008"
OF_LATER_ROWS = {"0011_withheld_mails", "0028_actions"}
"""Data migrations of what the first version did not have."""
ROWS = (
    "INSERT INTO billing.events (event_id, type, stream, outcome, customer_id, payload) VALUES "
    "('evt_1', 'customer.subscription.created', 'subscriptions', 'applied', 'cus_1', "
    """'{"data": {"object": {"id": "sub_1", "status": "active", "items": {"data": []}}}}'), """
    "('evt_2', 'charge.dispute.created', 'payments', 'applied', NULL, "
    """'{"data": {"object": {"id": "dp_1", "object": "dispute", "charge": "ch_1"}}}')""",
    "INSERT INTO billing.customers (account, customer_id, email, user_id) "
    "VALUES ('', 'cus_1', 'ada@example.com', '42')",
    "INSERT INTO billing.organizations (organization_id, account, customer_id, name, status, plan) VALUES "
    "('org_1', '', 'cus_1', 'Ada', 'active', 'pro'), ('org_2', 'acct_1', 'cus_2', 'Ben', 'active', 'pro')",
    "INSERT INTO billing.users (user_id, email) VALUES ('42', 'ada@example.com'), ('43', 'ben@example.com')",
    "INSERT INTO billing.memberships (organization_id, user_id, role) VALUES "
    "('org_1', '42', 'ADMIN'), ('org_2', '43', 'ADMIN')",
    "INSERT INTO billing.subscriptions (account, subscription_id, customer_id, status, price_id, plan, version) VALUES "
    "('', 'sub_1', 'cus_1', 'active', 'price_pro', 'pro', '0:001800000000:50:evt_1')",
    "INSERT INTO billing.payments (payment_id, account, invoice_id, customer_id, charge_id, amount, currency, status, "
    "version) VALUES ('pay_1', '', 'in_1', 'cus_1', 'ch_1', 2900, 'eur', 'succeeded', '1:001800000000:40:evt_3')",
    "INSERT INTO billing.disputes (account, dispute_id, charge_id, amount, currency, status) VALUES "
    "('', 'dp_1', 'ch_1', 2900, 'eur', 'needs_response')",
)


async def test_a_database_of_the_first_version_with_rows_is_migrated(database_url: str) -> None:
    url = SecretStr(database_url)
    await ask(url, "CREATE SCHEMA billing")
    engine = make_engine(url, application="test")
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade_to, FIRST)
    await engine.dispose()
    for statement in ROWS:
        await ask(url, statement)

    ended = await migrate(url)

    assert (ended.before, ended.after) == (FIRST, newest_revision())
    assert ended.backfilled.keys() == {one.name for one in BACKFILLS} - OF_LATER_ROWS
    assert await ask(url, "SELECT count(*) FROM billing.payment_links") == 2
    assert await ask(url, "SELECT on_hold FROM billing.payments")
    assert await ask(url, "SELECT has_access FROM billing.access WHERE customer_id = 'cus_1'")
    assert await migrate(url) == Migrated(newest_revision(), newest_revision())


def _upgrade_to(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    connection.commit()
    assert connection.execute(text("SELECT version_num FROM billing.alembic_version")).scalar() == revision
