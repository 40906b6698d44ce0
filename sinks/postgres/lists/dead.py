"""Dead letters in groups of one cause."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import Found, rows
from sinks.postgres.tables.log import LETTER_STATUSES

# Ids and numbers are replaced, so that one cause is one group.
CAUSE = r"""regexp_replace(regexp_replace(message, '\m[a-z]{2,8}_[A-Za-z0-9_]*[0-9][A-Za-z0-9_]*', '…', 'g'),
    '[0-9]+(\.[0-9]+)?', 'n', 'g')"""


async def groups(connection: AsyncConnection, status: str = "open") -> list[Found]:
    """Returns letters by cause and raising frame, the largest group first: how many, customers, times, and a sample."""
    return await rows(
        connection,
        f"""SELECT error_class, stage, {CAUSE} AS cause, top_frame, count(*) AS letters,
               count(DISTINCT (account, customer_id)) FILTER (WHERE customer_id IS NOT NULL) AS customers,
               min(first_failed_at) AS first_failed_at, max(last_failed_at) AS last_failed_at,
               array_agg(DISTINCT code_version) AS code_versions, array_agg(DISTINCT type) AS types,
               (array_agg(event_id ORDER BY last_failed_at DESC))[1] AS sample,
               array_agg(extract(epoch FROM now() - last_failed_at)::float ORDER BY last_failed_at) AS ages
        FROM (SELECT * FROM billing.dead_letters WHERE status = :status AND message <> 'erased'
              ORDER BY last_failed_at DESC LIMIT 10000) newest
        GROUP BY error_class, stage, cause, top_frame ORDER BY letters DESC, cause, top_frame LIMIT 100""",  # noqa: S608 - a constant
        {"status": status},
    )


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """Returns the number of letters by status, counted up to 10,001 each, which means more than 10,000."""
    found = await rows(
        connection,
        """SELECT status, (SELECT count(*) FROM (
               SELECT FROM billing.dead_letters l WHERE l.status = s.status LIMIT 10001) found) AS letters
        FROM unnest(CAST(:statuses AS text[])) AS s (status)""",
        {"statuses": list(LETTER_STATUSES)},
    )
    return {row["status"]: row["letters"] for row in found}


async def money_of_groups(connection: AsyncConnection) -> list[Found]:
    """Returns the MRR of customers with open letters by group (see `groups`), mode and currency.

    A customer with letters in two groups counts in both.
    """
    return await rows(
        connection,
        f"""WITH blocked AS (
          SELECT DISTINCT error_class, stage, {CAUSE} AS cause, top_frame, account, customer_id
          FROM (SELECT * FROM billing.dead_letters WHERE status = 'open' AND message <> 'erased'
                ORDER BY last_failed_at DESC LIMIT 10000) newest
          WHERE customer_id IS NOT NULL)
        SELECT b.error_class, b.stage, b.cause, b.top_frame, m.livemode, m.currency, sum(m.amount)::bigint AS mrr
        FROM blocked b JOIN analytics.movements m
          ON m.account = b.account AND m.livemode IN (true, false) AND m.owner = b.customer_id
        GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(m.amount) <> 0 ORDER BY 1, 2, 3, 4, 5 DESC, 6""",  # noqa: S608 - a constant
    )
