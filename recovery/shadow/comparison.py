"""Compares this system's state with a table of the old one, row by row, in constant memory.

old rows ─▶ a temporary table by key ─▶ FULL JOIN with ours ─▶ differing values, rows on one side only
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import SecretStr

from recovery.shadow.sources import Row
from recovery.shadow.values import differs
from sinks.postgres.failures import classified
from sinks.postgres.pool import Session, SessionTimeouts, connect

_CUSTOMERS = """
SELECT {key} AS key, c.customer_id, c.email, c.name, c.user_id, o.status, o.billing_status, a.plan, a.has_access,
    a.reason, a.changes_at, o.next_billing_at
FROM billing.customers c
LEFT JOIN billing.organizations o USING (account, customer_id)
LEFT JOIN billing.access a USING (account, customer_id)
WHERE c.account = '{account}' AND c.deleted_at IS NULL AND {key} IS NOT NULL
"""
_SUBSCRIPTIONS = """
SELECT subscription_id AS key, subscription_id, customer_id, status, price_id, plan, currency, current_period_start,
    current_period_end, trial_end, cancel_at, cancel_at_period_end, canceled_at, ended_at
FROM billing.subscriptions WHERE account = '{account}'
"""
KEYS: Mapping[str, str] = {
    "customer_id": _CUSTOMERS.replace("{key}", "c.customer_id"),
    "user_id": _CUSTOMERS.replace("{key}", "c.user_id"),
    "email": _CUSTOMERS.replace("{key}", "lower(c.email)"),
    "subscription_id": _SUBSCRIPTIONS,
}
"""By key: the rows of this system. Each row is one customer, or one subscription."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    name: tuple(
        column.strip().rpartition(".")[2] for column in query.partition(" AS key,")[2].partition("\nFROM")[0].split(",")
    )
    for name, query in KEYS.items()
}
"""By key: the columns that can be compared."""

_OLD = "CREATE TEMP TABLE old_rows (key text PRIMARY KEY, data jsonb NOT NULL)"
_PUT = """
INSERT INTO old_rows (key, data) SELECT * FROM unnest($1::text[], $2::jsonb[]) ON CONFLICT (key) DO NOTHING
"""
_STATEMENT_S = 600.0
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """How the old system's columns are named. `key` is one of KEYS, `key_column` its column there.

    `columns` are the compared columns: ours → theirs. `renamed` maps the old system's values to ours, by our column.
    `account` is a connected account, '' for the platform's own.
    """

    key: str
    key_column: str
    columns: Mapping[str, str]
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    account: str = ""

    @property
    def wanted(self) -> list[str]:
        """The columns to read from the old system."""
        return list(dict.fromkeys([self.key_column, *self.columns.values()]))


@dataclass(frozen=True, slots=True)
class Differing:
    """One row that differs. `fields`: [the old system's value, ours] by our column; `side` is where it is missing."""

    key: str
    fields: Mapping[str, list[Any]]
    missing: str | None = None


@dataclass(slots=True)
class ShadowComparison:
    """The result. `differences` are the first ones, `by_field` counts all of them."""

    rows: int = 0
    same: int = 0
    without_key: int = 0
    repeated: int = 0
    """Rows of the old system whose key an earlier row has."""
    by_field: Counter[str] = field(default_factory=Counter)
    differences: list[Differing] = field(default_factory=list)

    @property
    def differing(self) -> int:
        return self.rows - self.same


async def compare(url: SecretStr, source: AsyncIterator[list[Row]], mapped: Mapped, *, most: int) -> ShadowComparison:
    """Compare the rows of `source` with this system's. Keeps the first `most` differences. Raises StoreUnavailable."""
    result = ShadowComparison()
    session = await connect(
        url, application="billing-shadow", own_session=True, bounds=SessionTimeouts(statement_s=_STATEMENT_S)
    )
    try:
        with classified():
            await session.execute(_OLD)
        async for rows in source:
            await _put(session, rows, mapped, result)
        await _join(session, mapped, result, most)
    finally:
        session.terminate()
    return result


async def _put(session: Session, rows: list[Row], mapped: Mapped, result: ShadowComparison) -> None:
    keys, data = [], []
    for row in rows:
        key = (row[mapped.key_column] or "").strip()
        if not key:
            result.without_key += 1
            continue
        keys.append(key.lower() if mapped.key == "email" else key)
        data.append(orjson.dumps({ours: row[theirs] for ours, theirs in mapped.columns.items()}).decode())
    with classified():
        done = await session.execute(_PUT, keys, data)
    result.repeated += len(keys) - int(str(done).rpartition(" ")[2])


async def _join(session: Session, mapped: Mapped, result: ShadowComparison, most: int) -> None:
    # ruff: noqa: S608 - constants, and an account that was checked
    ours = KEYS[mapped.key].replace("{account}", mapped.account.replace("'", "''"))
    query = f"""
SELECT coalesce(o.key, n.key) AS row_key, o.data AS old, n.* FROM old_rows o FULL JOIN ({ours}) n ON n.key = o.key
ORDER BY 1"""
    with classified():
        async with session.transaction(readonly=False):
            async for row in session.cursor(query, prefetch=_PAGE):
                _judge(dict(row), mapped, result, most)


def _judge(row: Mapping[str, Any], mapped: Mapped, result: ShadowComparison, most: int) -> None:
    result.rows += 1
    found: Differing | None = None
    if row["old"] is None:
        found = Differing(row["row_key"], {}, "the old system")
    elif row["key"] is None:
        found = Differing(row["row_key"], {}, "this system")
    else:
        old = orjson.loads(row["old"])
        fields = {
            name: [old[name], row[name]]
            for name in mapped.columns
            if differs(name, old[name], row[name], mapped.renamed.get(name, {}))
        }
        found = Differing(row["row_key"], fields) if fields else None
    if found is None:
        result.same += 1
        return
    result.by_field.update([f"missing in {found.missing}"] if found.missing else list(found.fields))
    if len(result.differences) < most:
        result.differences.append(found)
