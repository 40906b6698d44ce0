"""`billing mrr`: months without movements, the scope of the lists, and options that do not apply."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import date

import pytest
from pydantic import SecretStr

from analytics.queries import Scope, figures
from ops.commands.mrr import MOST_LISTED, By, MrrPart
from sinks.postgres.lists import money
from sinks.postgres.pool import reading
from tests.kits.clikit import billing
from tests.kits.storekit import ask

_MOVEMENTS = """
INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day) VALUES
('', false, 'cus_1', 'eur', '2025-11-05', 'pro', 'new', 2900, '2025-11-05'),
('', false, 'cus_1', 'eur', '2026-02-28', 'pro', 'churn', -2900, '2026-02-28'),
('', false, 'cus_3', 'usd', '2026-01-31', 'pro', 'new', 700, '2026-01-31'),
('', true, 'cus_4', 'usd', '2026-01-31', 'pro', 'new', 700, '2026-01-31'),
('acct_1', false, 'cus_9', 'eur', '2024-01-05', 'pro', 'new', 500, '2024-01-05')
"""
_RISKS = """
INSERT INTO analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome) VALUES
('', true, 'cus_1', 'sub_1', '2026-01-31 23:59:59+00', 'eur', 1, 'open'),
('', true, 'cus_2', 'sub_2', '2026-02-01 00:00:00+00', 'eur', 2, 'open'),
('', false, 'cus_3', 'sub_3', '2026-02-02 00:00:00+00', 'eur', 3, 'open'),
('acct_1', true, 'cus_4', 'sub_4', '2026-02-03 00:00:00+00', 'eur', 4, 'open')
"""
_INVOICES = """
INSERT INTO billing.payments (payment_id, account, invoice_id, status, amount, currency, first_failed_at)
SELECT 'pay_' || n, CASE WHEN n = 4 THEN 'acct_1' ELSE '' END, 'in_' || n, 'failed', n, 'eur',
    timestamptz '2026-01-01 00:00:00+00' + n * interval '1 day' FROM generate_series(1, {most}) n
"""


async def test_G56_months_without_movements_are_listed(database: SecretStr) -> None:
    await ask(database, _MOVEMENTS)
    async with reading(database) as connection:
        found = (await figures(connection, Scope(), "month"))["mrr"]
        later = (await figures(connection, Scope(since=date(2026, 1, 20)), "month"))["mrr"]
    assert [
        (row["livemode"], row["currency"], row["month"], row["mrr"], row["new"], row["churn"]) for row in found
    ] == [
        (False, "eur", "2025-11", 2900, 2900, 0),
        (False, "eur", "2025-12", 2900, 0, 0),
        (False, "eur", "2026-01", 2900, 0, 0),
        (False, "eur", "2026-02", 0, 0, -2900),
        (False, "usd", "2026-01", 700, 700, 0),
        (False, "usd", "2026-02", 700, 0, 0),
        (True, "usd", "2026-01", 700, 700, 0),
    ]
    assert later == [row for row in found if row["month"] >= "2026-01"]  # whole months
    assert [row["churn_percent"] for row in found[:4]] == [None, "0.00", "0.00", "100.00"]


async def test_G52_the_lists_are_those_of_the_account_mode_and_days(database: SecretStr) -> None:
    await ask(database, _RISKS)
    await ask(database, _INVOICES.format(most=5))
    february = date(2026, 2, 1)
    async with reading(database) as connection:
        risks = [
            [row["customer_id"] for row in await money.customers_at_risk(connection, account="", **given)]
            for given in ({}, {"livemode": True}, {"livemode": True, "since": february}, {"most": 1})
        ]
        other = await money.customers_at_risk(connection, account="acct_1")
        invoices = [
            [row["invoice_id"] for row in await money.failed_invoices(connection, **given)]
            for given in ({}, {"account": ""}, {"account": "", "since": date(2026, 1, 4)}, {"most": 2})
        ]
    assert risks == [["cus_3", "cus_2", "cus_1"], ["cus_2", "cus_1"], ["cus_2"], ["cus_3"]]
    assert [row["customer_id"] for row in other] == ["cus_4"]
    assert invoices == [
        ["in_5", "in_4", "in_3", "in_2", "in_1"],
        ["in_5", "in_3", "in_2", "in_1"],
        ["in_5", "in_3"],
        ["in_5", "in_4"],
    ]


async def test_G52_a_list_that_is_cut_says_so(database: SecretStr) -> None:
    await ask(database, _INVOICES.format(most=MOST_LISTED + 2))
    env = {"BILLING_DATABASE_URL": database.get_secret_value()}
    done = await asyncio.to_thread(billing, ["mrr", "--only", "failed-invoices", "--csv"], env)
    assert (done.returncode, len(list(csv.DictReader(io.StringIO(done.stdout))))) == (0, MOST_LISTED)
    assert done.stderr == f"billing mrr: only the first {MOST_LISTED} rows: --account, --since or --until selects\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--only", MrrPart.CUSTOMERS_AT_RISK, "--by", By.PLAN),
        ("--only", MrrPart.RATES, "--by", By.PLAN),
        ("--only", MrrPart.RATES, "--since", "2026-01-01"),
        ("--only", MrrPart.FAILED_INVOICES, "--mode", "live"),
    ],
)
def test_G52_an_option_that_does_not_apply_is_refused(words: tuple[str, ...]) -> None:
    done = billing(["mrr", *map(str, words)], {})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{words[2]} does not apply to --only {words[1]}" in done.stderr
