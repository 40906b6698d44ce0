"""Queries the figures for `billing mrr`. Amounts are in minor units and are never added up over currencies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.failures import classified

_PAUSED_CHURN = "paused_churn"
"""Of customers who left while they were paused: their MRR, which the pause has taken out before. It is no part of the
sum of movements."""

# `@kinds`, `@where`, `@mrr` and the like are placeholders for SQL that the statements share.
_KINDS = ("new", "expansion", "contraction", "churn", "reactivation", "pause", "resume")
_MRR_SUMS = "sum(amount)::bigint AS mrr, sum(coalesce(list_amount, amount))::bigint AS list_mrr"
_UNTIL = "(CAST(:until AS date) IS NULL OR {column} <= :until)"
_SINCE = "(CAST(:since AS date) IS NULL OR {column} >= :since)"
_WHERE = "WHERE account = :account AND (CAST(:livemode AS boolean) IS NULL OR livemode = :livemode)"


def _kind_sums(condition: str) -> str:
    sums = [("amount", kind, kind) for kind in _KINDS] + [("paused_lost", "churn", _PAUSED_CHURN)]
    return ", ".join(
        f"coalesce(sum({column}) FILTER (WHERE kind = '{kind}'{condition}), 0)::bigint AS {name}"
        for column, kind, name in sums
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """Selects one account ('' is the platform's own), and live mode, test mode or both (None)."""

    account: str = ""
    livemode: bool | None = None
    since: date | None = None
    """The first day (UTC) whose movements, payments, failures and ends count; all if None."""
    until: date | None = None
    """The last day (UTC) that counts, and at whose end MRR is shown; today if None."""


_MRR = {
    "currency": """
SELECT livemode, currency, @mrr, @kinds
FROM analytics.movements @where AND @until GROUP BY livemode, currency ORDER BY livemode, currency""",
    # A change of plan moves MRR from one plan to another, which is neither growth nor loss of either plan.
    "plan": """
SELECT livemode, currency, plan, @mrr, @own_kinds,
       coalesce(sum(amount) FILTER (WHERE is_move AND amount > 0 AND @since), 0)::bigint AS moved_in,
       coalesce(sum(amount) FILTER (WHERE is_move AND amount < 0 AND @since), 0)::bigint AS moved_out
FROM (
    SELECT *, bool_or(amount > 0) OVER together AND bool_or(amount < 0) OVER together AS is_move
    FROM analytics.movements @where AND @until
    WINDOW together AS (PARTITION BY account, livemode, owner, currency, at)
) AS moved GROUP BY livemode, currency, plan ORDER BY livemode, currency, plan""",
    "customer": """
SELECT livemode, currency, owner AS customer, @mrr, @kinds
FROM analytics.movements @where AND @until
GROUP BY livemode, currency, owner ORDER BY livemode, currency, mrr DESC, owner""",
    "month": """
SELECT livemode, currency, month, mrr, list_mrr, @kind_names,
       round(-100.0 * (churn + paused_churn) / nullif(mrr - net, 0), 2)::text AS churn_percent
FROM (
    SELECT livemode, currency, to_char(month, 'YYYY-MM') AS month, coalesce(sum(amount), 0)::bigint AS net,
           (sum(coalesce(sum(amount), 0)) OVER so_far)::bigint AS mrr,
           (sum(coalesce(sum(coalesce(list_amount, amount)), 0)) OVER so_far)::bigint AS list_mrr,
           @all_kinds
    FROM (
        SELECT livemode, currency, generate_series(
            date_trunc('month', min(day)::timestamp),
            max(max(day)::timestamp) OVER (PARTITION BY livemode),
            interval '1 month'
        ) AS month
        FROM analytics.movements @where AND @until GROUP BY livemode, currency
    ) AS series
    LEFT JOIN (
        SELECT livemode, currency, date_trunc('month', day::timestamp) AS month, kind, amount, list_amount,
               paused_lost
        FROM analytics.movements @where AND @until
    ) AS moved USING (livemode, currency, month)
    GROUP BY livemode, currency, month
    WINDOW so_far AS (PARTITION BY livemode, currency ORDER BY month)
) AS months WHERE (CAST(:since AS date) IS NULL OR month >= to_char(CAST(:since AS date), 'YYYY-MM'))
ORDER BY livemode, currency, month""",
    "day": """
SELECT * FROM (
    SELECT livemode, currency, day, (sum(sum(amount)) OVER so_far)::bigint AS mrr,
           (sum(sum(coalesce(list_amount, amount))) OVER so_far)::bigint AS list_mrr, @kinds
    FROM analytics.movements @where AND @until GROUP BY livemode, currency, day
    WINDOW so_far AS (PARTITION BY livemode, currency ORDER BY day)
) AS days WHERE @since ORDER BY livemode, currency, day""",
}

# A customer whose movements add up to nothing pays nothing now.
_RATES = """
SELECT livemode, currency, count(*) AS customers, sum(mrr)::bigint AS mrr, (12 * sum(mrr))::bigint AS arr,
       round(sum(mrr) / count(*))::bigint AS arpu
FROM (SELECT livemode, currency, owner, sum(amount) AS mrr FROM analytics.movements @where AND @until
      GROUP BY livemode, currency, owner HAVING sum(amount) > 0) AS paying
GROUP BY livemode, currency ORDER BY livemode, currency"""

# By the month in which a customer paid for the first time.
_COHORTS = """
SELECT livemode, currency, to_char(began, 'YYYY-MM') AS month, count(*) AS customers,
       count(*) FILTER (WHERE mrr > 0) AS paying, sum(first_mrr)::bigint AS first_mrr, sum(mrr)::bigint AS mrr,
       round(100.0 * count(*) FILTER (WHERE mrr > 0) / count(*), 2)::text AS paying_percent
FROM (SELECT livemode, currency, owner, min(day) FILTER (WHERE kind = 'new') AS began, sum(amount) AS mrr,
             sum(amount) FILTER (WHERE kind = 'new') AS first_mrr
      FROM analytics.movements @where AND @until GROUP BY livemode, currency, owner) AS owners
WHERE began IS NOT NULL AND @since GROUP BY livemode, currency, month ORDER BY livemode, currency, month"""

_USAGE = """
SELECT livemode, currency, count(*) AS subscriptions, sum(amount)::bigint AS amount
FROM analytics.usage @where GROUP BY livemode, currency ORDER BY livemode, currency"""

_RISK = """
SELECT livemode, currency,
       coalesce(sum(mrr) FILTER (WHERE CASE WHEN CAST(:until AS date) IS NULL THEN outcome = 'open'
           ELSE (began_at AT TIME ZONE 'UTC')::date <= :until
               AND coalesce((ended_at AT TIME ZONE 'UTC')::date > :until, true) END), 0)::bigint AS at_risk,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'recovered' AND @since AND @until), 0)::bigint AS recovered,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'lost' AND @since AND @until), 0)::bigint AS lost
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
FROM analytics.recoveries @where AND @since AND @until GROUP BY livemode, currency ORDER BY livemode, currency"""

_STEPS = """
SELECT livemode, step, count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
       count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome = 'open') AS open
FROM analytics.recoveries @where AND @since AND @until GROUP BY livemode, step ORDER BY livemode, step"""

_PAYMENTS = """
SELECT livemode, currency,
       count(*) FILTER (WHERE kind IN ('invoice', 'purchase')) AS payments,
       coalesce(sum(amount) FILTER (WHERE kind IN ('invoice', 'purchase')), 0)::bigint AS amount,
       count(DISTINCT owner) FILTER (WHERE kind IN ('invoice', 'purchase')) AS customers,
       count(*) FILTER (WHERE kind = 'failed') AS unpaid,
       coalesce(sum(amount) FILTER (WHERE kind = 'failed'), 0)::bigint AS unpaid_amount,
       coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded
FROM analytics.payments @where AND @since AND @until GROUP BY livemode, currency ORDER BY livemode, currency"""

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

_DATES = {
    "cohorts": "began",
    "risk": "(ended_at AT TIME ZONE 'UTC')::date",
    "recovery": "(first_failed_at AT TIME ZONE 'UTC')::date",
    "recovery_by_step": "(first_failed_at AT TIME ZONE 'UTC')::date",
}
"""The day (UTC) that `since` and `until` are compared with, if it is not `day`."""


async def figures(connection: AsyncConnection, scope: Scope, by: str) -> dict[str, list[dict[str, Any]]]:
    """Returns MRR and its movements by `currency`, `plan`, `customer`, `month` or `day` (`by`), and by currency: rates
    (ARR, revenue per customer), cohorts, usage, risk, recovery, payments.

    `mrr` is after discounts, `list_mrr` before. Raises StoreUnavailable.
    """
    counts_all = scope.since is None and scope.until is None
    if counts_all:
        with classified():
            # An earlier version has counted the payments, and `billing analytics` has not started since.
            counts_all = not (await connection.execute(text(LACKS_TOTALS))).scalar_one()
    statements = {
        "mrr": _MRR[by],
        "rates": _RATES,
        "cohorts": _COHORTS,
        "usage": _USAGE,
        "risk": _RISK,
        "recovery": _RECOVERY,
        "recovery_by_step": _STEPS,
        "payments": _ALL_PAYMENTS if counts_all else _PAYMENTS,
    }
    arguments = {
        "account": scope.account,
        "livemode": scope.livemode,
        "since": scope.since,
        "until": scope.until,
    }
    found = {}
    for name, statement in statements.items():
        sql = _completed(statement, _DATES.get(name, "day"))
        with classified():
            rows = await connection.execute(
                text(sql), {key: value for key, value in arguments.items() if f":{key}" in sql}
            )
        found[name] = [dict(row) for row in rows.mappings()]
    return found


def _completed(statement: str, column: str) -> str:
    """Returns the statement with its placeholders replaced. `column` is the day that is compared."""
    parts = {
        "@kind_names": ", ".join((*_KINDS, _PAUSED_CHURN)),
        "@all_kinds": _kind_sums(""),
        "@own_kinds": _kind_sums(" AND NOT is_move AND @since"),
        "@kinds": _kind_sums(" AND @since"),
        "@mrr": _MRR_SUMS,
        "@where": _WHERE,
        "@since": _SINCE.format(column=column),
        "@until": _UNTIL.format(column="day" if column == "began" else column),
    }
    for name, sql in parts.items():
        statement = statement.replace(name, sql)
    return statement
