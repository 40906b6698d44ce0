"""The console's list of cards that expire soon: default cards that are valid now and end within two months."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import SecretStr

from sinks.postgres.lists import money
from sinks.postgres.pool import reading
from tests.kits.storekit import ask


async def test_only_default_cards_that_end_within_two_months_are_listed(database: SecretStr) -> None:
    now = datetime.now(UTC)
    months = {offset: divmod(now.year * 12 + now.month - 1 + offset, 12) for offset in (-1, 0, 1, 2, 3, 12)}
    for offset, (year, month) in months.items():
        card, customer = f"pm_{offset}", f"cus_{offset}"
        await ask(
            database,
            "INSERT INTO billing.customers (account, customer_id, default_payment_method) "
            f"VALUES ('', '{customer}', '{card}')",
        )
        await ask(
            database,
            "INSERT INTO billing.payment_methods (account, payment_method_id, customer_id, exp_year, exp_month) "
            f"VALUES ('', '{card}', '{customer}', {year}, {month + 1}), "
            f"('', '{card}_other', '{customer}', {year}, {month + 1})",
        )
    await ask(database, "UPDATE billing.payment_methods SET detached_at = now() WHERE payment_method_id = 'pm_1'")
    async with reading(database) as connection:
        found = await money.expiring_cards(connection, now)
    assert [row["payment_method_id"] for row in found] == ["pm_0", "pm_2"]
