"""Queries the figures for `billing mrr`. Amounts are in minor units and are never added up over currencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.failures import classified

# `@kinds` and `@where` are placeholders for SQL that the statements share.
_KINDS = ("new", "expansion", "contraction", "churn", "reactivation")
_KIND_SUMS = ", ".join(f"coalesce(sum(amount) FILTER (WHERE kind = '{kind}'), 0)::bigint AS {kind}" for kind in _KINDS)
_WHERE = "WHERE account = :account AND (CAST(:livemode AS boolean) IS NULL OR livemode = :livemode)"


@dataclass(frozen=True, slots=True)
class Scope:
    """Selects one account ('' is the platform's own), and live mode, test mode or both (None)."""

    account: str = ""
    livemode: bool | None = None


_MRR = {
    "currency": """
SELECT livemode, currency, sum(amount)::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency ORDER BY livemode, currency""",
    "plan": """
SELECT livemode, currency, plan, sum(amount)::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency, plan ORDER BY livemode, currency, plan""",
    "day": """
SELECT livemode, currency, day,
       (sum(sum(amount)) OVER (PARTITION BY livemode, currency ORDER BY day))::bigint AS mrr, @kinds
FROM analytics.movements @where GROUP BY livemode, currency, day ORDER BY livemode, currency, day""",
}

_RISK = """
SELECT livemode, currency,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'open'), 0)::bigint AS at_risk,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'recovered'), 0)::bigint AS recovered,
       coalesce(sum(mrr) FILTER (WHERE outcome = 'lost'), 0)::bigint AS lost
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
FROM analytics.recoveries @where GROUP BY livemode, currency ORDER BY livemode, currency"""

_STEPS = """
SELECT livemode, step, count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
       count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome = 'open') AS open
FROM analytics.recoveries @where GROUP BY livemode, step ORDER BY livemode, step"""

_PAYMENTS = """
SELECT livemode, currency,
       count(*) FILTER (WHERE kind IN ('invoice', 'purchase')) AS payments,
       coalesce(sum(amount) FILTER (WHERE kind IN ('invoice', 'purchase')), 0)::bigint AS amount,
       count(DISTINCT owner) FILTER (WHERE kind IN ('invoice', 'purchase')) AS customers,
       count(*) FILTER (WHERE kind = 'failed') AS unpaid,
       coalesce(sum(amount) FILTER (WHERE kind = 'failed'), 0)::bigint AS unpaid_amount,
       coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded
FROM analytics.payments @where GROUP BY livemode, currency ORDER BY livemode, currency"""


async def figures(connection: AsyncConnection, scope: Scope, by: str) -> dict[str, list[dict[str, Any]]]:
    """Returns MRR and its movements by `currency`, `plan` or `day` (`by`), and risk, recovery and payments by currency.

    Raises StoreUnavailable.
    """
    statements = {
        "mrr": _MRR[by],
        "risk": _RISK,
        "recovery": _RECOVERY,
        "recovery_by_step": _STEPS,
        "payments": _PAYMENTS,
    }
    found = {}
    for name, statement in statements.items():
        with classified():
            rows = await connection.execute(
                text(statement.replace("@kinds", _KIND_SUMS).replace("@where", _WHERE)),
                {"account": scope.account, "livemode": scope.livemode},
            )
        found[name] = [dict(row) for row in rows.mappings()]
    return found
