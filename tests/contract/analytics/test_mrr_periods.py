"""`billing mrr`: periods, moves between plans, MRR before discounts, cohorts, usage, and files with typed columns."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from analytics.queries import Scope, figures
from ops.commands.figures_parquet import type_of
from ops.commands.mrr import AMOUNTS, LISTS, By, MrrPart
from sinks.postgres.lists import money
from sinks.postgres.pool import reading
from tests.kits.clikit import billing
from tests.kits.storekit import ask

_MOVEMENTS = """
INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, list_amount, day)
SELECT '', false, owner, currency, at::timestamptz, plan, kind, amount, listed, at::date FROM (VALUES
    ('cus_1', 'eur', '2026-01-05', 'pro', 'new', 4000, 4000),
    ('cus_1', 'eur', '2026-02-28 23:59:59+00', 'pro', 'contraction', -4000, -4000),
    ('cus_1', 'eur', '2026-02-28 23:59:59+00', 'starter', 'contraction', 1900, 1900),
    ('cus_2', 'eur', '2026-02-01', 'starter', 'new', 950, 1900),
    ('cus_2', 'eur', '2026-03-01 00:00:00+00', 'starter', 'pause', -950, -1900),
    ('cus_3', 'jpy', '2026-01-31', 'pro', 'new', 250, NULL),
    ('cus_4', 'eur', '2026-01-31', 'pro', 'new', 100, 100),
    ('cus_4', 'eur', '2026-03-31', 'pro', 'churn', -100, -100)
) AS v (owner, currency, at, plan, kind, amount, listed)
"""
_REST = """
INSERT INTO analytics.usage VALUES ('', false, 'cus_1', 'sub_1', 'eur', 7300, 'in_1', '2026-02-01');
INSERT INTO analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome, ended_at)
VALUES ('', false, 'cus_1', 'sub_1', '2026-01-20', 'eur', 4000, 'recovered', '2026-02-10'),
       ('', false, 'cus_2', 'sub_2', '2026-02-20', 'eur', 950, 'open', NULL);
INSERT INTO analytics.recoveries VALUES
    ('', false, 'cus_1', 'in_1', 'sub_1', 'eur', 4000, 2, '2026-01-20', 'payment-failed', 'recovered', '2026-02-10', 259200);
INSERT INTO analytics.payments VALUES
    ('', false, 'cus_1', 'in_1', '2026-02-10', 'invoice', 'eur', 4000, '2026-02-10');
INSERT INTO billing.payments (payment_id, account, invoice_id, status, amount, currency, first_failed_at)
VALUES ('pay_1', '', 'in_2', 'failed', 950, 'eur', '2026-02-20')
"""  # noqa: E501  # one row a line


@pytest.fixture
async def filled(database: SecretStr) -> SecretStr:
    for statement in (_MOVEMENTS, *_REST.split(";")):
        await ask(database, statement)
    return database


async def _figures(database: SecretStr, by: str, **scope: Any) -> dict[str, list[dict[str, Any]]]:
    async with reading(database) as connection:
        return await figures(connection, Scope(**scope), by)


async def test_G56_figures_end_with_the_last_day(filled: SecretStr) -> None:
    february = {"since": date(2026, 2, 1), "until": date(2026, 2, 28)}
    found = await _figures(filled, "currency", **february)
    eur, jpy = found["mrr"]
    assert (eur["mrr"], eur["list_mrr"], eur["new"], eur["contraction"], eur["pause"]) == (2950, 3900, 950, -2100, 0)
    assert (jpy["mrr"], jpy["list_mrr"], jpy["new"]) == (250, 250, 0)
    assert [(row["customers"], row["mrr"], row["arr"]) for row in found["rates"]] == [(3, 2950, 35_400), (1, 250, 3000)]
    assert [(row["at_risk"], row["recovered"]) for row in found["risk"]] == [(950, 4000)]
    january = await _figures(filled, "currency", until=date(2026, 1, 31))
    assert [(row["at_risk"], row["recovered"]) for row in january["risk"]] == [(4000, 0)]
    assert january["payments"] == []
    assert found["payments"][0]["amount"] == 4000
    assert [(row["month"], row["mrr"]) for row in (await _figures(filled, "month", **february))["mrr"]] == [
        ("2026-02", 2950), ("2026-02", 250)]  # fmt: skip


async def test_G58_by_plan_a_downgrade_is_a_move_and_a_pause_is_no_churn(filled: SecretStr) -> None:
    found = (await _figures(filled, "plan"))["mrr"]
    plans = {(row["currency"], row["plan"]): row for row in found}
    pro, starter = plans["eur", "pro"], plans["eur", "starter"]
    assert (pro["moved_out"], starter["moved_in"]) == (-4000, 1900)
    assert all(row["contraction"] == 0 for row in found)
    total = next(row for row in (await _figures(filled, "currency"))["mrr"] if row["currency"] == "eur")
    assert pro["moved_out"] + starter["moved_in"] == total["contraction"] == -2100
    assert pro["mrr"] + starter["mrr"] == total["mrr"]
    assert (total["pause"], total["churn"]) == (-950, -100)
    months = {row["month"]: row for row in (await _figures(filled, "month"))["mrr"] if row["currency"] == "eur"}
    assert months["2026-03"]["churn_percent"] == "3.39"  # 100 of 2950; the pause of 950 does not count
    assert months["2026-02"]["churn_percent"] == "0.00"


async def test_G56_cohorts_by_the_month_of_the_first_payment(filled: SecretStr) -> None:
    found = (await _figures(filled, "currency"))["cohorts"]
    rows = [
        (row["currency"], row["month"], row["customers"], row["paying"], row["first_mrr"], row["mrr"]) for row in found
    ]
    assert rows == [
        ("eur", "2026-01", 2, 1, 4100, 1900),
        ("eur", "2026-02", 1, 0, 950, 0),
        ("jpy", "2026-01", 1, 1, 250, 250),
    ]
    assert found[0]["paying_percent"] == "50.00"


async def test_G56_the_movements_behind_the_figures(filled: SecretStr) -> None:
    async with reading(filled) as connection:
        rows = await money.moved(connection, since=date(2026, 2, 28), until=date(2026, 2, 28))
    assert [(row["customer_id"], row["plan"], row["amount"]) for row in rows] == [
        ("cus_1", "pro", -4000), ("cus_1", "starter", 1900)]  # fmt: skip


@pytest.mark.parametrize("only", MrrPart)
async def test_G56_each_table_is_written_with_typed_columns(only: MrrPart, filled: SecretStr, tmp_path: Path) -> None:
    """The types by name fit the values, and the file has the figures of the JSON."""
    env = {"BILLING_DATABASE_URL": filled.get_secret_value()}
    path = tmp_path / "figures.parquet"
    done = billing(["mrr", "--only", only, "--parquet", str(path)], env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    table = pq.read_table(path)
    rows = orjson.loads(billing(["mrr", "--only", only, "--json"], env).stdout)[only]
    assert table.num_rows == len(rows) > 0
    for field in table.schema:
        assert field.type == type_of(field.name)
        values = [row[field.name] for row in rows if row[field.name] is not None]
        if field.name in AMOUNTS.get(only, ()):
            assert field.type == pa.int64()
            assert table.column(field.name).to_pylist() == [row[field.name] for row in rows]
        if field.type == pa.int64():
            assert all(isinstance(value, int) for value in values), field.name
        if pa.types.is_timestamp(field.type):
            moments = [one for one in table.column(field.name).to_pylist() if one is not None]
            assert moments == [datetime.fromisoformat(value).astimezone(UTC) for value in values]
        if pa.types.is_decimal(field.type):
            assert [one for one in table.column(field.name).to_pylist() if one is not None] == list(
                map(Decimal, values)
            )


async def test_G58_who_leaves_while_paused_is_churn_of_that_month(filled: SecretStr) -> None:
    """cus_2 has paused in March. Its end moves no MRR, and is in the churn of April."""
    await ask(
        filled,
        """INSERT INTO analytics.movements
            (account, livemode, owner, currency, at, plan, kind, amount, list_amount, paused_lost, day)
        VALUES ('', false, 'cus_2', 'eur', '2026-04-01', 'starter', 'churn', 0, 0, -950, '2026-04-01') RETURNING 1""",
    )
    months = {row["month"]: row for row in (await _figures(filled, "month"))["mrr"] if row["currency"] == "eur"}
    april, march = months["2026-04"], months["2026-03"]
    assert (march["pause"], march["paused_churn"], march["mrr"]) == (-950, 0, 1900)
    assert (april["churn"], april["paused_churn"], april["mrr"], april["churn_percent"]) == (0, -950, 1900, "50.00")
    for by in (By.CURRENCY, By.PLAN, By.CUSTOMER, By.DAY):
        assert sum(row["paused_churn"] for row in (await _figures(filled, by))["mrr"]) == -950, by


@pytest.mark.parametrize("by", By)
async def test_G57_people_read_amounts_with_their_currency(by: By, filled: SecretStr) -> None:
    env = {"BILLING_DATABASE_URL": filled.get_secret_value(), "COLUMNS": "250"}
    printed = billing(["mrr", "--by", by], env).stdout
    assert "250 JPY" in printed
    assert "73.00 EUR" in printed  # usage
    assert "3 days" in printed
    assert set(LISTS) <= set(AMOUNTS)


def test_G56_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for words, text in [
        (["--until", "2026-01-01", "--since", "2026-01-02"], "--until 2026-01-01 is before --since 2026-01-02"),
        (["--parquet", str(tmp_path / "x")], "--parquet needs --only"),
        (["--only", "usage", "--until", "2026-01-01"], "--until does not apply to --only usage"),
        (["--only", "risk", "--csv", "--json"], "use one of --csv, --json and --parquet"),
    ]:
        done = billing(["mrr", *words], {})
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr
