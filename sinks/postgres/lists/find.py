"""Finds anything by any id, address or name. Each look-up uses an index; ids are asked for in each account."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import Found, row, rows

MOST = 20
_PLACE = re.compile(r"^([\w.-]+)/(\d{1,6})/(\d{1,19})$")


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found: its kind, id, a line that describes it, and the customer whom it belongs to."""

    kind: str
    id: str
    account: str
    customer_id: str | None
    about: str | None


_BY_ID: dict[str, tuple[str, str]] = {
    "evt_": (
        "event",
        "SELECT event_id AS id, account, customer_id, type AS about FROM billing.events WHERE event_id = :q",
    ),
    "tmr_": (
        "event",
        "SELECT event_id AS id, account, customer_id, type AS about FROM billing.events WHERE event_id = :q",
    ),
    "cus_": (
        "customer",
        "SELECT customer_id AS id, account, customer_id, email AS about FROM billing.customers "
        "WHERE customer_id = :q AND account = ANY(:accounts)",
    ),
    "sub_": (
        "subscription",
        "SELECT subscription_id AS id, account, customer_id, status AS about FROM billing.subscriptions "
        "WHERE subscription_id = :q AND account = ANY(:accounts)",
    ),
    "pm_": (
        "payment method",
        "SELECT payment_method_id AS id, account, customer_id, brand AS about FROM billing.payment_methods "
        "WHERE payment_method_id = :q AND account = ANY(:accounts)",
    ),
    "dp_": (
        "dispute",
        "SELECT dispute_id AS id, account, customer_id, status AS about FROM billing.disputes "
        "WHERE dispute_id = :q AND account = ANY(:accounts)",
    ),
}
_BY_ID["du_"] = _BY_ID["dp_"]

_PAYMENT = """SELECT l.stripe_id AS id, p.account, p.customer_id, p.status AS about
FROM billing.payment_links l JOIN billing.payments p ON p.payment_id = l.payment_id
WHERE l.stripe_id = :q AND l.account = ANY(:accounts)"""
for _prefix in ("in_", "pi_", "ch_", "py_", "cs_"):
    _BY_ID[_prefix] = ("payment", _PAYMENT)

_KEYS = {
    "timer": "SELECT timer_key AS id, account, customer_id, kind AS about FROM billing.timers WHERE timer_key = :q",
    "mail": "SELECT email_key AS id, account, customer_id, template AS about FROM billing.emails WHERE email_key = :q",
    "call": "SELECT call_key AS id, account, customer_id, purpose AS about FROM billing.stripe_calls "
    "WHERE call_key = :q",
}

# A loose index scan: the number of steps is the number of accounts, not of customers.
_EACH_ACCOUNT = """WITH RECURSIVE each AS (
  (SELECT account FROM billing.customers ORDER BY account LIMIT 1)
  UNION ALL
  SELECT (SELECT c.account FROM billing.customers c WHERE c.account > each.account ORDER BY c.account LIMIT 1)
  FROM each WHERE each.account IS NOT NULL)
SELECT account FROM each WHERE account IS NOT NULL LIMIT 1000"""


def place_of(query: str) -> tuple[str, int, int] | None:
    """Returns topic, partition and offset of `topic/partition/offset`, None for another query."""
    found = _PLACE.match(query)
    return (found[1], int(found[2]), int(found[3])) if found is not None else None


async def find(connection: AsyncConnection, query: str, *, dead_topic: str) -> list[Hit]:
    """Returns what has this id, key, address, message id, place of a dead letter, or start of a name. At most 20."""
    if not query:
        return []
    if (place := place_of(query)) is not None:
        return await _at_place(connection, *place, dead_topic)
    accounts = [found["account"] for found in await rows(connection, _EACH_ACCOUNT)] or [""]
    if "" not in accounts:
        accounts.append("")
    values: dict[str, object] = {"q": query, "accounts": accounts}
    hits: list[Hit] = []
    prefix = query[: query.find("_") + 1]
    if prefix in _BY_ID:
        kind, statement = _BY_ID[prefix]
        hits = [_hit(kind, found) for found in await rows(connection, statement, values)]
        if not hits and prefix == "cus_":
            hits = await _customer_without_row(connection, values)
        if not hits and prefix == "evt_":
            hits = await _dead_event(connection, query)
    elif prefix == "acct_":
        hits = [Hit("account", query, query, None, None)] if query in accounts else []
    if not hits:
        for kind, statement in _KEYS.items():
            hits += [_hit(kind, found) for found in await rows(connection, statement, values)]
    if not hits and query.startswith("<") and query.endswith(">"):
        found = await row(
            connection,
            "SELECT email_key AS id, account, customer_id, template AS about FROM billing.emails WHERE message_id = :q",
            values,
        )
        hits = [_hit("mail", found)] if found else []
    if not hits and "@" in query:
        hits = await _customers(connection, "lower(email) = lower(:q)", values)
    if not hits and len(query) >= 2:
        pattern = re.sub(r"([\\%_])", r"\\\1", query.lower()) + "%"
        hits = await _customers(connection, r"lower(name) LIKE :pattern ESCAPE '\'", {**values, "pattern": pattern})
    return hits[:MOST]


async def _customers(connection: AsyncConnection, condition: str, values: dict[str, object]) -> list[Hit]:
    statement = f"""SELECT customer_id AS id, account, customer_id, email AS about FROM billing.customers
        WHERE account = ANY(:accounts) AND {condition} ORDER BY customer_id LIMIT {MOST}"""  # noqa: S608 - constants
    return [_hit("customer", found) for found in await rows(connection, statement, values)]


async def _customer_without_row(connection: AsyncConnection, values: dict[str, object]) -> list[Hit]:
    """Finds a customer of whom only events are known."""
    statement = """SELECT DISTINCT customer_id AS id, account, customer_id, 'only events are known' AS about
        FROM billing.events WHERE account = ANY(:accounts) AND customer_id = :q"""
    return [_hit("customer", found) for found in await rows(connection, statement, values)]


async def _dead_event(connection: AsyncConnection, event_id: str) -> list[Hit]:
    statement = """SELECT event_id AS id, account, customer_id, type AS about FROM billing.dead_letters
        WHERE event_id = :q LIMIT 1"""
    return [_hit("event", found) for found in await rows(connection, statement, {"q": event_id})]


async def _at_place(connection: AsyncConnection, topic: str, partition: int, offset: int, dead_topic: str) -> list[Hit]:
    values = {"topic": topic, "partition": partition, "offset": offset}
    found = await rows(
        connection,
        """SELECT coalesce(event_id, '') AS id, account, customer_id, type AS about FROM billing.dead_letters
        WHERE topic = :topic AND "partition" = :partition AND "offset" = :offset LIMIT 1""",
        values,
    )
    if topic == dead_topic and not found:
        found = await rows(
            connection,
            """SELECT coalesce(event_id, '') AS id, account, customer_id, type AS about FROM billing.dead_letters
            WHERE dead_partition = :partition AND dead_offset = :offset LIMIT 1""",
            values,
        )
    return [_hit("event", one) for one in found if one["id"]]


def _hit(kind: str, found: Found) -> Hit:
    return Hit(kind, found["id"], found["account"], found["customer_id"], found["about"])
