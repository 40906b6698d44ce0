"""Finds out whose event it is, and whether the ledger may keep its payload (behaviours.md B6)."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.known import Known
from schemas.verdict import Duplicate
from sinks.postgres.rows import Erased
from sinks.postgres.store import Transaction
from streams.item import Item, summary_of


async def find_erased(items: Sequence[Item], transaction: Transaction) -> Erased:
    """Returns the owners of the events that name no customer, and the customers of the batch who were erased."""
    customers, named = set[tuple[str, str]](), set[tuple[str, str]]()
    for item in items:
        summary = summary_of(item) if not isinstance(item.verdict, Duplicate) else None
        if summary is not None and summary.customer_id is not None:
            customers.add((summary.account, summary.customer_id))
        elif summary is not None:
            named |= {(summary.account, id_) for id_ in summary.named}
    return await transaction.erased(customers, named)


def bar(item: Item, known: Known, erased: Erased) -> None:
    """Sets the customer of an event that names none, and whether its payload must not be stored."""
    summary = summary_of(item)
    if summary is None or isinstance(item.verdict, Duplicate):
        return
    owners = (erased.owners.get((summary.account, id_)) for id_ in summary.named)
    item.customer_id = item.customer_id or next((owner for owner in owners if owner is not None), None)
    owner = summary.customer_id or item.customer_id
    if owner is None:
        return
    row = known.customer(summary.account, owner) or erased.customers.get((summary.account, owner))
    if row is None or row.erased_at is None:
        return
    is_late = summary.created is not None and summary.created <= row.erased_at
    item.is_barred = row.is_erased or is_late
