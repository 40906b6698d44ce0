"""docs/dashboards: the revenue dashboard's queries give the figures of `billing mrr` on the same tables."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
from pydantic import SecretStr

from analytics.queries import Scope, figures
from sinks.postgres.pool import reading
from tests.kits.dashboards import DASHBOARDS

_ROWS = """
INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day) VALUES
('', false, 'cus_1', 'eur', '2026-01-05', 'pro', 'new', 2900, '2026-01-05'),
('', false, 'cus_2', 'eur', '2026-01-20', 'team', 'new', 9900, '2026-01-20'),
('', false, 'cus_1', 'eur', '2026-02-03', 'pro', 'churn', -2900, '2026-02-03'),
('acct_1', false, 'cus_9', 'eur', '2026-01-05', 'pro', 'new', 500, '2026-01-05'),
('', false, 'cus_3', 'usd', '2026-01-05', 'pro', 'new', 700, '2026-01-05');
INSERT INTO analytics.payments (account, livemode, owner, subject, at, kind, currency, amount, day) VALUES
('', false, 'cus_1', 'in_1', '2026-01-05', 'invoice', 'eur', 2900, '2026-01-05');
INSERT INTO analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome) VALUES
('', false, 'cus_2', 'sub_2', '2026-02-20', 'eur', 9900, 'open');
INSERT INTO analytics.recoveries (account, livemode, owner, invoice_id, currency, amount, attempts, first_failed_at,
    step, outcome) VALUES ('', false, 'cus_2', 'in_2', 'eur', 9900, 1, '2026-02-20', 'payment-failed', 'open');
"""


def as_grafana_sends_it(query: str) -> str:
    """Grafana's macros and variables, for the currency eur, one's own account, and the time 2025-06 to 2026-06."""
    query = re.sub(r"\$__timeFilter\(([^()]+)\)", r"\1 BETWEEN '2025-06-01Z' AND '2026-06-01Z'", query)
    return query.replace("${account:sqlstring}", "''").replace("${currency:sqlstring}", "'eur'")


async def test_every_query_runs_and_agrees_with_billing_mrr(database: SecretStr) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    connection = await asyncpg.connect(database.get_secret_value())
    try:
        await connection.execute(_ROWS)
        for dashboard in DASHBOARDS:
            for kind, query in dashboard.queries:
                if kind == "postgres":
                    rows = await connection.fetch(as_grafana_sends_it(query))
                    assert rows, query
            for panel in dashboard.panels:
                if "rawSql" in panel["targets"][0]:
                    rows = await connection.fetch(as_grafana_sends_it(panel["targets"][0]["rawSql"]))
                    found[panel["title"] + " " + panel["type"]] = [dict(row) for row in rows]
    finally:
        await connection.close()
    async with reading(database) as session:
        mrr = await figures(session, Scope(), "currency")
    (eur,) = [row for row in mrr["mrr"] if row["currency"] == "eur"]
    assert float(found["MRR stat"][0]["mrr"]) * 100 == eur["mrr"] == 9900
    assert float(found["MRR timeseries"][-1]["mrr"]) * 100 == eur["mrr"]
    assert found["Paying customers stat"][0]["customers"] == 1
    months = found["Movements by month barchart"]
    assert [(row["month"], float(row["new"]), float(row["churn"])) for row in months] == [
        ("2026-01", 128.0, 0.0),
        ("2026-02", 0.0, -29.0),
    ]
    churn = {row["month"]: row["churn"] for row in found["Churn rate by month barchart"]}
    assert round(churn["2026-02"], 4) == round(2900 / 12800, 4)
