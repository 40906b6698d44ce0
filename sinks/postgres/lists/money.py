"""Dunning and revenue: what is owed, what was recovered, and how MRR moved. Currencies are never added up."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import PAGE, Found, rows

MOST_CARDS = 200
MOST_RECOVERIES = 10_000
"""Failed payments whose reasons are looked up."""


async def failed_invoices(
    connection: AsyncConnection,
    *,
    account: str | None = None,
    since: date | None = None,
    until: date | None = None,
    most: int = MOST_CARDS,
) -> list[Found]:
    """Returns invoices whose payment has failed and not been recovered or lost: amount, steps, timers, last mail, MRR.

    Those of one account, if it is given, that first failed on the day `since` (UTC) or later, up to the day `until`.
    The largest amount first, at most `most`.
    """
    where, values = _where(account=account, began=("first_failed_at", since, until))
    return await rows(
        connection,
        f"""SELECT p.payment_id, p.account, p.invoice_id, p.customer_id, p.subscription_id,
               coalesce(p.amount_remaining, p.amount) AS amount, p.currency, p.failure_reason, p.attempt_count,
               p.first_failed_at, p.dunning_steps, p.version,
               regexp_replace(p.failure_version, '^.*:(evt_[^:]+|tmr_[^:]+)$', '\\1') AS event_id,
               c.email AS customer_email, c.name AS customer_name, r.mrr, r.currency AS mrr_currency,
               t.kind AS next_timer, t.due_at AS next_at, m.template AS last_mail, m.status AS last_mail_status,
               m.queued_at AS last_mail_at
        FROM (SELECT * FROM billing.payments WHERE status = 'failed'{where} ORDER BY amount DESC LIMIT :most) p
        LEFT JOIN LATERAL (SELECT email, name FROM billing.customers c WHERE c.account = p.account
            AND c.customer_id = p.customer_id LIMIT 1) c ON true
        LEFT JOIN LATERAL (SELECT mrr, currency FROM analytics.risks r WHERE r.account = p.account
            AND r.livemode IN (true, false) AND r.owner = p.customer_id AND r.subscription_id = p.subscription_id
            AND r.outcome = 'open'
            ORDER BY began_at DESC LIMIT 1) r ON true
        LEFT JOIN LATERAL (SELECT kind, due_at FROM billing.timers t WHERE t.account = p.account
            AND t.customer_id = p.customer_id AND t.subject = p.invoice_id AND t.status = 'pending'
            ORDER BY due_at LIMIT 1) t ON true
        LEFT JOIN LATERAL (SELECT template, status, queued_at FROM billing.emails e WHERE e.account = p.account
            AND e.customer_id = p.customer_id AND e.email_key LIKE '%' || p.invoice_id || '%'
            ORDER BY queued_at DESC LIMIT 1) m ON true
        ORDER BY p.amount DESC, p.payment_id""",  # noqa: S608 - constants
        values | {"most": most},
    )


async def ended_invoices(connection: AsyncConnection, since: datetime) -> list[Found]:
    """Returns invoices whose failure ended since then: recovered or lost, the latest first, at most 100."""
    return await rows(
        connection,
        """SELECT invoice_id, owner AS customer_id, account, livemode, currency, amount, attempts, step, outcome,
               first_failed_at, ended_at, seconds
        FROM analytics.recoveries WHERE outcome <> 'open' AND ended_at >= :since ORDER BY ended_at DESC LIMIT 100""",
        {"since": since},
    )


async def recovery_by_step(connection: AsyncConnection) -> list[Found]:
    """Returns for each dunning step, mode and currency: reached, recovered, lost, open, money, and the median time."""
    return await rows(
        connection,
        """SELECT livemode, currency, step, count(*) AS failed,
               count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
               count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome = 'open') AS open,
               coalesce(sum(amount) FILTER (WHERE outcome = 'recovered'), 0)::bigint AS recovered_amount,
               coalesce(sum(amount) FILTER (WHERE outcome = 'lost'), 0)::bigint AS lost_amount,
               (percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE outcome = 'recovered'))
                 AS median_seconds
        FROM analytics.recoveries GROUP BY livemode, currency, step ORDER BY livemode DESC, currency, step""",
    )


async def recovery_by_month(connection: AsyncConnection) -> list[Found]:
    """Returns cohorts by the month of the first failure. A month with open ones can still change."""
    return await rows(
        connection,
        """SELECT livemode, currency, to_char(first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
               count(*) AS failed, count(*) FILTER (WHERE outcome = 'recovered') AS recovered,
               count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome = 'open') AS open,
               coalesce(sum(amount) FILTER (WHERE outcome = 'recovered'), 0)::bigint AS recovered_amount
        FROM analytics.recoveries WHERE first_failed_at >= date_trunc('month', now()) - interval '12 months'
        GROUP BY 1, 2, 3 ORDER BY 1 DESC, 2, 3 DESC""",
    )


async def recovery_by_reason(connection: AsyncConnection, since: datetime) -> list[Found]:
    """Returns payments that first failed since then by the latest reason of the decline, mode and currency.

    `failed`, `recovered`, `lost`, `open`, and the amount recovered: of the newest 10,000. The most frequent reasons
    first, at most 40 rows.
    """
    return await rows(
        connection,
        """SELECT r.livemode, r.currency, coalesce(p.failure_reason, 'no reason given') AS reason, count(*) AS failed,
               count(*) FILTER (WHERE r.outcome = 'recovered') AS recovered,
               count(*) FILTER (WHERE r.outcome = 'lost') AS lost, count(*) FILTER (WHERE r.outcome = 'open') AS open,
               coalesce(sum(r.amount) FILTER (WHERE r.outcome = 'recovered'), 0)::bigint AS recovered_amount
        FROM (SELECT * FROM analytics.recoveries WHERE first_failed_at >= :since
              ORDER BY first_failed_at DESC LIMIT :most) r
        LEFT JOIN LATERAL (SELECT failure_reason FROM billing.payments p
            WHERE p.account = r.account AND p.invoice_id = r.invoice_id LIMIT 1) p ON true
        GROUP BY 1, 2, 3 ORDER BY failed DESC, reason, currency LIMIT 40""",
        {"since": since, "most": MOST_RECOVERIES},
    )


async def decline_reasons(connection: AsyncConnection) -> list[Found]:
    """Returns failed payments by the reason of the decline: open, and the money."""
    return await rows(
        connection,
        """SELECT coalesce(failure_reason, 'no reason given') AS reason, currency, count(*) AS payments,
               coalesce(sum(coalesce(amount_remaining, amount)), 0)::bigint AS amount
        FROM billing.payments WHERE status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20""",
    )


async def expiring_cards(connection: AsyncConnection, now: datetime, *, months: int = 2) -> list[Found]:
    """Returns default cards that expire at the end of this month or of the next `months`, with their customers' MRR.

    A card is valid until the end of its month. At most 200, the earliest first. `now` is in UTC.
    """
    years, month = divmod(now.month - 1 + months, 12)
    return await rows(
        connection,
        """WITH due AS (
          SELECT m.account, m.customer_id, m.payment_method_id, m.brand, m.last4, m.exp_year, m.exp_month
          FROM billing.payment_methods m
          CROSS JOIN LATERAL (SELECT FROM billing.customers c WHERE c.account = m.account
            AND c.customer_id = m.customer_id AND c.default_payment_method = m.payment_method_id LIMIT 1) c
          WHERE m.detached_at IS NULL AND (m.exp_year, m.exp_month) >= (:first_year, :first_month)
            AND (m.exp_year, m.exp_month) <= (:last_year, :last_month)
          ORDER BY m.exp_year, m.exp_month LIMIT 200)
        SELECT due.*, m.currency, m.mrr FROM due
        LEFT JOIN LATERAL (SELECT currency, sum(amount)::bigint AS mrr FROM analytics.movements v
            WHERE v.account = due.account AND v.livemode IN (true, false) AND v.owner = due.customer_id
            GROUP BY currency ORDER BY 2 DESC LIMIT 1) m
          ON true
        ORDER BY exp_year, exp_month, mrr DESC NULLS LAST""",
        {"first_year": now.year, "first_month": now.month, "last_year": now.year + years, "last_month": month + 1},
    )


async def movements_by_month(connection: AsyncConnection, *, months: int = 12) -> list[Found]:
    """Returns the last `months` months of each mode and currency, the oldest first: MRR movements by kind, and `mrr`.

    A month without movements is there, too, with the MRR of the month before. The first month is that of the first
    movement, the last one is the present month in UTC. `mrr` is at the end of the month.
    """
    return await rows(
        connection,
        """WITH by_month AS (
          SELECT livemode, currency, date_trunc('month', day)::date AS began,
                 coalesce(sum(amount) FILTER (WHERE kind = 'new'), 0)::bigint AS new,
                 coalesce(sum(amount) FILTER (WHERE kind = 'expansion'), 0)::bigint AS expansion,
                 coalesce(sum(amount) FILTER (WHERE kind = 'reactivation'), 0)::bigint AS reactivation,
                 coalesce(sum(amount) FILTER (WHERE kind = 'pause'), 0)::bigint AS pause,
                 coalesce(sum(amount) FILTER (WHERE kind = 'resume'), 0)::bigint AS resume,
                 coalesce(sum(amount) FILTER (WHERE kind = 'contraction'), 0)::bigint AS contraction,
                 coalesce(sum(amount) FILTER (WHERE kind = 'churn'), 0)::bigint AS churn,
                 coalesce(sum(paused_lost) FILTER (WHERE kind = 'churn'), 0)::bigint AS paused_churn,
                 sum(amount)::bigint AS net
          FROM analytics.movements WHERE account = '' GROUP BY livemode, currency, began),
        now_began AS (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS began),
        spans AS (SELECT livemode, currency, min(b.began) AS first, greatest(max(b.began), min(n.began)) AS last
                  FROM by_month b CROSS JOIN now_began n GROUP BY livemode, currency),
        each_month AS (SELECT livemode, currency, m::date AS began FROM spans
                       CROSS JOIN LATERAL generate_series(first::timestamp, last::timestamp, interval '1 month') m),
        running AS (
          SELECT livemode, currency, began, coalesce(b.new, 0) AS new, coalesce(b.expansion, 0) AS expansion,
                 coalesce(b.reactivation, 0) AS reactivation, coalesce(b.pause, 0) AS pause,
                 coalesce(b.resume, 0) AS resume, coalesce(b.contraction, 0) AS contraction,
                 coalesce(b.churn, 0) AS churn, coalesce(b.paused_churn, 0) AS paused_churn, coalesce(b.net, 0) AS net,
                 (sum(coalesce(b.net, 0)) OVER (PARTITION BY livemode, currency ORDER BY began))::bigint AS mrr
          FROM each_month LEFT JOIN by_month b USING (livemode, currency, began))
        SELECT livemode, currency, to_char(began, 'YYYY-MM') AS month, new, expansion, reactivation, pause, resume,
               contraction, churn, paused_churn, net, mrr
        FROM running
        WHERE began > (SELECT began FROM now_began) - make_interval(months => :months)
        ORDER BY livemode DESC, currency, running.began""",
        {"months": months},
    )


async def movements(
    connection: AsyncConnection, *, month: str, kind: str = "", currency: str = "", plan: str = ""
) -> list[Found]:
    """Returns the movements of a month (`YYYY-MM`) with the events of the same owner and second that explain them.

    Several events can share a second, so all of them are listed. At most 200 movements, the largest first.
    """
    parts, values = (
        ["day >= to_date(:month, 'YYYY-MM')", "day < to_date(:month, 'YYYY-MM') + interval '1 month'"],
        {"month": month},
    )
    for name, value in (("kind", kind), ("currency", currency), ("plan", plan)):
        if value:
            parts.append(f"{name} = :{name}")
            values[name] = value
    return await rows(
        connection,
        f"""SELECT m.account, m.livemode, m.owner AS customer_id, m.at, m.kind, m.plan, m.currency, m.amount,
               m.paused_lost, f.events
        FROM (SELECT * FROM analytics.movements WHERE {" AND ".join(parts)} ORDER BY abs(amount) DESC LIMIT 200) m
        LEFT JOIN LATERAL (SELECT array_agg(event_id ORDER BY rank) AS events FROM analytics.facts f
            WHERE f.account = m.account AND f.livemode = m.livemode AND f.owner = m.owner AND f.created = m.at) f
          ON true
        ORDER BY m.at DESC, m.owner""",  # noqa: S608 - constants
        values,
    )


async def customers_at_risk(
    connection: AsyncConnection,
    *,
    account: str | None = None,
    livemode: bool | None = None,
    since: date | None = None,
    until: date | None = None,
    most: int = PAGE,
) -> list[Found]:
    """Returns subscriptions that are past due, by the MRR that they may cost: at most `most`.

    Those of one account and mode, if they are given, that have been past due since the day `since` (UTC) or later,
    up to the day `until`.
    """
    where, values = _where(account=account, livemode=livemode, began=("began_at", since, until))
    return await rows(
        connection,
        f"""SELECT r.account, r.livemode, r.owner AS customer_id, r.subscription_id, r.mrr, r.currency, r.began_at,
               c.email AS customer_email
        FROM (SELECT * FROM analytics.risks WHERE outcome = 'open'{where} ORDER BY mrr DESC LIMIT :most) r
        LEFT JOIN billing.customers c ON c.account = r.account AND c.customer_id = r.owner
        ORDER BY r.mrr DESC""",  # noqa: S608 - constants
        values | {"most": most},
    )


async def moved(
    connection: AsyncConnection,
    *,
    account: str = "",
    livemode: bool | None = None,
    since: date | None = None,
    until: date | None = None,
    most: int = PAGE,
) -> list[Found]:
    """Returns the movements of MRR from the day `since` (UTC) to the day `until`, the latest first, at most `most`."""
    found: dict[str, tuple[str, Any]] = {
        "account": ("account = :account", account),
        "livemode": ("livemode = :livemode", livemode),
        "since": ("day >= :since", since),
        "until": ("day <= :until", until),
    }
    given = {name: (condition, value) for name, (condition, value) in found.items() if value is not None}
    where = " AND ".join(condition for condition, _ in given.values())
    return await rows(
        connection,
        f"""SELECT m.livemode, m.at, m.owner AS customer_id, c.email AS customer_email, c.name AS customer_name, m.kind,
               m.plan, m.currency, m.amount, coalesce(m.list_amount, m.amount) AS list_amount,
               coalesce(m.paused_lost, 0) AS paused_lost
        FROM (SELECT * FROM analytics.movements WHERE {where} ORDER BY day DESC, at DESC, owner, plan LIMIT :most) m
        LEFT JOIN billing.customers c ON c.account = m.account AND c.customer_id = m.owner
        ORDER BY m.at DESC, m.owner, m.plan""",  # noqa: S608 - constants
        {name: value for name, (_, value) in given.items()} | {"most": most},
    )


def _where(
    *, account: str | None, began: tuple[str, date | None, date | None], livemode: bool | None = None
) -> tuple[str, dict[str, Any]]:
    """Returns further conditions and their values. `began` is a column and the first and last day (UTC) that count."""
    column, since, until = began
    found: dict[str, tuple[str, Any]] = {
        "account": ("account = :account", account),
        "livemode": ("livemode = :livemode", livemode),
        "since": (f"{column} >= CAST(:since AS timestamptz)", since and datetime.combine(since, time(), UTC)),
        "until": (
            f"{column} < CAST(:until AS timestamptz)",
            until and datetime.combine(until + timedelta(days=1), time(), UTC),
        ),
    }
    given = {name: (condition, value) for name, (condition, value) in found.items() if value is not None}
    return (
        "".join(f" AND {condition}" for condition, _ in given.values()),
        {name: value for name, (_, value) in given.items()},
    )


def quick_ratio(month: dict[str, Any]) -> float | None:
    """Returns gained MRR by lost MRR of one month, None without losses."""
    lost = -(month["contraction"] + month["churn"] + month["paused_churn"])
    return round((month["new"] + month["expansion"] + month["reactivation"]) / lost, 2) if lost > 0 else None
