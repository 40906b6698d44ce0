"""What needs attention now, from the tables alone: one small query per fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import Found, row, rows
from sinks.postgres.lists.dead import CAUSE
from sinks.postgres.outboxes import OUTBOXES

MOST_LETTERS = 10_000
"""Open dead letters that are counted and grouped."""

_LATE_S = 300
"""Seconds after which something that is due counts as late."""


async def brakes(connection: AsyncConnection) -> list[Found]:
    """Returns every consumer group that was ever stopped; `holds` as long as it is not released or passed."""
    return await rows(
        connection,
        """SELECT consumer_group, tripped_at, message, reasons, code_version, released_at, released_by, let_die,
               passed_by, passed_at, released_at IS NULL AND passed_at IS NULL AS holds
        FROM billing.brakes ORDER BY tripped_at DESC""",
    )


async def letters(connection: AsyncConnection) -> Found | None:
    """Returns the number of open dead letters, of their groups, and the first failure, of the newest 10,000.

    `more`: there are older ones.
    """
    return await row(
        connection,
        f"""SELECT least(count(*), :most) AS open, count(*) > :most AS more,
               count(DISTINCT (error_class, stage, {CAUSE}, top_frame)) AS groups, min(first_failed_at) AS since
        FROM (SELECT error_class, stage, message, top_frame, first_failed_at FROM billing.dead_letters
              WHERE status = 'open' ORDER BY last_failed_at DESC LIMIT :most + 1) newest""",  # noqa: S608 - a constant
        {"most": MOST_LETTERS},
    )


async def waiting(connection: AsyncConnection) -> Found | None:
    """Returns the number of waiting events and since when the oldest waits."""
    return await row(
        connection,
        "SELECT count(*) AS events, min(received_at) AS since FROM billing.events WHERE outcome = 'waiting'",
    )


async def outboxes(connection: AsyncConnection) -> list[Found]:
    """Returns for each outbox the failed rows, the queued rows, and the seconds by which the oldest one is late."""
    found = []
    for outbox in OUTBOXES:
        one = await row(
            connection,
            f"""SELECT
              (SELECT count(*) FROM billing.{outbox.name} WHERE status = 'failed'
                 AND coalesce(last_error, '') <> 'erased') AS failed,
              (SELECT count(*) FROM billing.{outbox.name} WHERE status IN ('queued', '{outbox.busy}')) AS open,
              (SELECT extract(epoch FROM now() - min(next_attempt_at))::float FROM billing.{outbox.name}
                 WHERE status IN ('queued', '{outbox.busy}') AND next_attempt_at < now()) AS late_s""",  # noqa: S608
        )
        found.append({"outbox": outbox.name, "command": outbox.command, **(one or {})})
    return found


async def late_timers(connection: AsyncConnection) -> Found | None:
    """Returns the number of timers that are due for five minutes and not fired, and the oldest one's time."""
    return await row(
        connection,
        """SELECT count(*) AS timers, min(due_at) AS since FROM billing.timers
        WHERE status = 'pending' AND due_at < now() - make_interval(secs => :late)""",
        {"late": _LATE_S},
    )


async def outages(connection: AsyncConnection) -> list[Found]:
    """Returns what dispatchers cannot reach now, by outbox."""
    return await rows(
        connection,
        """SELECT outbox, address, reason, min(since) AS since, max(seen_at) AS seen_at FROM billing.outages
        WHERE seen_at > now() - interval '10 minutes' GROUP BY outbox, address, reason ORDER BY since""",
    )


async def shadow(connection: AsyncConnection) -> Found | None:
    """Returns the newest shadow period with `is_on`, None if there was none."""
    return await row(connection, "SELECT began_at, ended_at, ended_at IS NULL AS is_on FROM billing.shadow")


async def runs(connection: AsyncConnection) -> Found:
    """Returns the newest `reconciliation` and `audit` run, each None without one.

    They say how the last run ended. Whether the books differ is in recovery/audit/results.py: the newest run may cover
    less than one that has found differences.
    """
    return {
        "reconciliation": await row(
            connection,
            """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, cursor, counts,
                   last_error
            FROM billing.reconciliations ORDER BY started_at DESC LIMIT 1""",
        ),
        "audit": await row(
            connection,
            """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, differences, last_error
            FROM billing.audits ORDER BY started_at DESC LIMIT 1""",
        ),
    }


async def compared(connection: AsyncConnection) -> Found | None:
    """Returns when `billing diff` last compared the state with the log, and the number of differing rows as `count`.

    None if that was more than 60 days ago.
    """
    return await row(
        connection,
        """SELECT at, who, count FROM billing.audit_log WHERE at > now() - interval '60 days' AND action = 'diff'
        AND outcome = 'done' ORDER BY at DESC LIMIT 1""",
    )


async def scheduled(connection: AsyncConnection) -> Found:
    """Returns the newest run of `prune` and of the `retry` of failed events, each None without one in 60 days.

    A retry that finds no letter leaves no row.
    """
    newest = """SELECT at, outcome, count, reason FROM billing.audit_log
        WHERE at > now() - interval '60 days' AND {} ORDER BY at DESC LIMIT 1"""
    return {
        "prune": await row(connection, newest.format("action = 'prune'")),
        "retry": await row(connection, newest.format("action = 'dead.replay' AND role = 'schedule'")),
    }


async def unknown_prices(connection: AsyncConnection) -> list[Found]:
    """Returns prices that no plan of the config names, with the number of their subscriptions."""
    return await rows(
        connection,
        """SELECT price_id, count(*) AS subscriptions FROM billing.subscriptions
        WHERE plan IS NULL AND price_id IS NOT NULL GROUP BY price_id ORDER BY 2 DESC LIMIT 20""",
    )


async def money_behind_failures(
    connection: AsyncConnection, unread: Mapping[tuple[str, str], int] | None = None
) -> list[Found]:
    """Returns the MRR of customers who wait for a dead, waiting or unread event, by mode and currency.

    `letters`, `waiting` and `unread` are the numbers of their events. The argument has the unread ones: (account,
    customer's id) → number. Customers without MRR do not count.
    """
    owners = list(unread or {})
    return await rows(
        connection,
        """WITH blocked AS (
          SELECT account, customer_id, count(*) AS letters, 0 AS waiting, 0 AS unread FROM billing.dead_letters
          WHERE status = 'open' AND customer_id IS NOT NULL GROUP BY account, customer_id
          UNION ALL
          SELECT account, customer_id, 0, count(*), 0 FROM billing.events
          WHERE outcome = 'waiting' AND customer_id IS NOT NULL GROUP BY account, customer_id
          UNION ALL
          SELECT account, customer_id, 0, 0, events
          FROM unnest(CAST(:accounts AS text[]), CAST(:owners AS text[]), CAST(:events AS bigint[]))
            AS u (account, customer_id, events)),
        by_customer AS (
          SELECT account, customer_id, sum(letters) AS letters, sum(waiting) AS waiting, sum(unread) AS unread
          FROM blocked GROUP BY account, customer_id),
        paying AS (
          SELECT b.letters, b.waiting, b.unread, m.livemode, m.currency, sum(m.amount) AS mrr
          FROM by_customer b JOIN analytics.movements m
            ON m.account = b.account AND m.livemode IN (true, false) AND m.owner = b.customer_id
          GROUP BY b.account, b.customer_id, b.letters, b.waiting, b.unread, m.livemode, m.currency
          HAVING sum(m.amount) <> 0)
        SELECT livemode, currency, sum(mrr)::bigint AS mrr, count(*) AS customers, sum(letters)::bigint AS letters,
               sum(waiting)::bigint AS waiting, sum(unread)::bigint AS unread
        FROM paying GROUP BY livemode, currency ORDER BY livemode DESC, currency""",
        {
            "accounts": [account for account, _ in owners],
            "owners": [owner for _, owner in owners],
            "events": list((unread or {}).values()),
        },
    )


def waits_for(row: Mapping[str, Any]) -> str:
    """Returns what a row of `money_behind_failures` waits for: `3 dead letters and 41 unread events`."""
    counts = (
        (row["letters"], "dead letter"),
        (row["waiting"], "waiting event"),
        (row["unread"], "unread event"),
    )
    parts = [f"{number:,} {what}{'' if number == 1 else 's'}" for number, what in counts if number]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


async def money_strip(connection: AsyncConnection) -> list[Found]:
    """Returns MRR, its net movement this month, MRR at risk and what was recovered this month, by mode and currency."""
    return await rows(
        connection,
        """WITH mrr AS (
          SELECT livemode, currency, sum(amount)::bigint AS mrr,
                 coalesce(sum(amount) FILTER (WHERE at >= (SELECT date_trunc('month', now()))), 0)::bigint AS net
          FROM analytics.movements WHERE account = '' GROUP BY livemode, currency),
        risk AS (SELECT livemode, currency, sum(mrr)::bigint AS at_risk FROM analytics.risks
                 WHERE account = '' AND outcome = 'open' GROUP BY livemode, currency),
        recovered AS (
          SELECT livemode, currency,
                 coalesce(sum(amount) FILTER (
                   WHERE outcome = 'recovered' AND ended_at >= (SELECT date_trunc('month', now()))), 0)::bigint
                   AS recovered,
                 count(*) FILTER (WHERE outcome = 'open') AS failed_open
          FROM analytics.recoveries WHERE account = '' GROUP BY livemode, currency)
        SELECT livemode, currency, coalesce(mrr, 0) AS mrr, coalesce(net, 0) AS net, coalesce(at_risk, 0) AS at_risk,
               coalesce(recovered, 0) AS recovered, coalesce(failed_open, 0) AS failed_open
        FROM mrr FULL JOIN risk USING (livemode, currency) FULL JOIN recovered USING (livemode, currency)
        ORDER BY livemode DESC, mrr DESC""",
    )
