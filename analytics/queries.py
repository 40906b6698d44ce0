"""Queries the figures for `billing mrr`. Amounts are in minor units and are never added up over currencies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.failures import classified

# `@kinds` and `@where` are placeholders for SQL that the statements share.
_KINDS = ("new", "expansion", "contraction", "churn", "reactivation")
_KIND_SUMS = ", ".join(
    f"coalesce(sum(amount) FILTER (WHERE kind = '{kind}' AND @since), 0)::bigint AS {kind}" for kind in _KINDS
)
_SINCE = "(CAST(:since AS date) IS NULL OR {column} >= :since)"
_WHERE = "WHERE account = :account AND (CAST(:livemode AS boolean) IS NULL OR livemode = :livemode)"


@dataclass(frozen=True, slots=True)
class Scope:
    """Selects one account ('' is the platform's own), and live mode, test mode or both (None)."""

    account: str = ""
    livemode: bool | None = None
    since: date | None = None
    """The first day (UTC) whose movements, payments, failures and ends count; all if None. MRR itself is today's."""


_MRR = {
    "currency": """
SELECT livemode, currency, sum(amount)::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency ORDER BY livemode, currency""",
    "plan": """
SELECT livemode, currency, plan, sum(amount)::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency, plan ORDER BY livemode, currency, plan""",
    "customer": """
SELECT livemode, currency, owner AS customer, sum(amount)::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency, owner ORDER BY livemode, currency, mrr DESC, owner""",
    "month": """
SELECT *, round(-100.0 * churn / nullif(mrr - (new + expansion + contraction + churn + reactivation), 0), 2)::text
    AS churn_percent
FROM (
    SELECT livemode, currency, to_char(month, 'YYYY-MM') AS month,
           (sum(coalesce(sum(amount), 0)) OVER (PARTITION BY livemode, currency ORDER BY month))::bigint AS mrr,
           @all_kinds
    FROM (
        SELECT livemode, currency, generate_series(
            date_trunc('month', min(day)::timestamp),
            max(max(day)::timestamp) OVER (PARTITION BY livemode),
            interval '1 month'
        ) AS month
        FROM analytics.movements @where GROUP BY livemode, currency
    ) AS series
    LEFT JOIN (
        SELECT livemode, currency, date_trunc('month', day::timestamp) AS month, kind, amount
        FROM analytics.movements @where
    ) AS moved USING (livemode, currency, month)
    GROUP BY livemode, currency, month
) AS months WHERE (CAST(:since AS date) IS NULL OR month >= to_char(CAST(:since AS date), 'YYYY-MM'))
ORDER BY livemode, currency, month""",
    "day": """
SELECT * FROM (
    SELECT livemode, currency, day,
           (sum(sum(amount)) OVER (PARTITION BY livemode, currency ORDER BY day))::bigint AS mrr, @kinds
    FROM analytics.movements @where GROUP BY livemode, currency, day
) AS days WHERE @since ORDER BY livemode, currency, day""",
}

# A customer whose movements add up to nothing pays nothing now.
_RATES = """
SELECT livemode, currency, count(*) AS customers, sum(mrr)::bigint AS mrr, (12 * sum(mrr))::bigint AS arr,
       round(sum(mrr) / count(*))::bigint AS arpu
FROM (SELECT livemode, currency, owner, sum(amount) AS mrr FROM analytics.movements @where
      GROUP BY livemode, currency, owner HAVING sum(amount) > 0) AS paying
GROUP BY livemode, currency ORDER BY livemode, currency"""

_RISK = """
SELECT livemode, currency,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'open'), 0)::bigint AS at_risk,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'recovered' AND @since), 0)::bigint AS recovered,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'lost' AND @since), 0)::bigint AS lost
FROM analytics.risks @where GROUP BY livemode, currency ORDER BY livemode, currency"""

_RECOVERY = """
SELECT livemode, currency, count(*) AS failed,
       count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
       count(*) FILTER (WHERE outcome = 'lost') AS lost,
       count(*) FILTER (WHERE outcome = 'open') AS open,
       round(count(*) FILTER (WHERE outcome = 'recovered')::numeric
             / nullif(count(*) FILTER (WHERE outcome <> 'open'), 0), 4)::text AS rate,
       coalesce(sum(amount) FILTER (WHERE outcome = 'recovered'), 0)::bigint AS recovered_amount,
       coalesce(sum(amount) FILTER (WHERE outcome = 'lost'), 0)::bigint AS lost_amount,
       (percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE outcome = 'recovered')) AS median_seconds
FROM analytics.recoveries @where AND @since GROUP BY livemode, currency ORDER BY livemode, currency"""

_STEPS = """
SELECT livemode, step, count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
       count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome = 'open') AS open
FROM analytics.recoveries @where AND @since GROUP BY livemode, step ORDER BY livemode, step"""

_PAYMENTS = """
SELECT livemode, currency,
       count(*) FILTER (WHERE kind IN ('invoice', 'purchase')) AS payments,
       coalesce(sum(amount) FILTER (WHERE kind IN ('invoice', 'purchase')), 0)::bigint AS amount,
       count(DISTINCT owner) FILTER (WHERE kind IN ('invoice', 'purchase')) AS customers,
       count(*) FILTER (WHERE kind = 'failed') AS unpaid,
       coalesce(sum(amount) FILTER (WHERE kind = 'failed'), 0)::bigint AS unpaid_amount,
       coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded
FROM analytics.payments @where AND day >= :since GROUP BY livemode, currency ORDER BY livemode, currency"""

# One row for each customer instead of one for each payment, so it does not get slower with the years.
_ALL_PAYMENTS = """
SELECT livemode, currency, sum(payments)::bigint AS payments, sum(amount)::bigint AS amount,
       count(*) FILTER (WHERE payments > 0) AS customers, sum(unpaid)::bigint AS unpaid,
       sum(unpaid_amount)::bigint AS unpaid_amount, sum(refunded)::bigint AS refunded
FROM analytics.payment_totals @where GROUP BY livemode, currency ORDER BY livemode, currency"""

LACKS_TOTALS = """
SELECT NOT EXISTS (SELECT FROM analytics.payment_totals) AND EXISTS (SELECT FROM analytics.payments)
"""
"""Whether an earlier version counted the payments, and their sums are still missing."""

_DATES = {"mrr": "day", "risk": "ended_at", "recovery": "first_failed_at", "recovery_by_step": "first_failed_at"}
"""The column that `since` is compared with."""


async def figures(connection: AsyncConnection, scope: Scope, by: str) -> dict[str, list[dict[str, Any]]]:
    """Returns MRR and its movements by `currency`, `plan`, `customer`, `month` or `day` (`by`), and by currency: rates
    (ARR, revenue per customer), risk, recovery, payments.

    Raises StoreUnavailable.
    """
    since = scope.since
    if since is None:
        with classified():
            lacks = (await connection.execute(text(LACKS_TOTALS))).scalar_one()
        since = date.min if lacks else None  # an earlier version's payments, until `billing analytics` has started
    statements = {
        "mrr": _MRR[by],
        "rates": _RATES,
        "risk": _RISK,
        "recovery": _RECOVERY,
        "recovery_by_step": _STEPS,
        "payments": _ALL_PAYMENTS if since is None else _PAYMENTS,
    }
    arguments: dict[str, Any] = {"account": scope.account, "livemode": scope.livemode}
    found = {}
    for name, statement in statements.items():
        with classified():
            sql = statement.replace("@all_kinds", _KIND_SUMS.replace("AND @since", ""))
            sql = sql.replace("@kinds", _KIND_SUMS).replace("@where", _WHERE)
            sql = sql.replace("@since", _SINCE.format(column=_DATES.get(name, "day")))
            rows = await connection.execute(text(sql), arguments | ({"since": since} if ":since" in sql else {}))
        found[name] = [dict(row) for row in rows.mappings()]
    return found
