"""Finds out whose event it is, and whether the ledger may keep its payload (behaviours.md B6)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from schemas.known import Known
from schemas.ordering import GUEST, named_ids
from schemas.state import Customer
from schemas.storable import bounded, is_storable
from schemas.verdict import Duplicate, Waiting
from sinks.postgres.rows import Erased, EventObjectRow, ObjectOwnerRow
from sinks.postgres.store import Transaction
from streams.flush import barred_id
from streams.item import Item, summary_of


async def find_erased(items: Sequence[Item], known: Known, transaction: Transaction) -> Erased:
    """Returns the owners of the events that name no customer, and who was erased of the customers of the batch.

    It leaves out customers whose rows are in `known`.
    """
    customers, named = set[tuple[str, str]](), set[tuple[str, str]]()
    for item in items:
        summary = summary_of(item) if not isinstance(item.verdict, Duplicate) else None
        if summary is not None and summary.customer_id is not None:
            customer = (summary.account, summary.customer_id)
            if known.find(Customer, customer) is None:
                customers.add(customer)
        elif summary is not None:
            named |= {(summary.account, id_) for id_ in summary.named}
    return await transaction.erased(customers, named)


def bar(item: Item, known: Known, erased: Erased) -> None:
    """Sets the customer of an event that names none, and whether its payload must not be stored."""
    summary = summary_of(item)
    if summary is None or isinstance(item.verdict, Duplicate):
        return
    owners = (erased.owners.get((summary.account, id_)) for id_ in summary.named)
    owner = item.customer_id or next((owner for owner in owners if owner is not None), None)
    if owner is not None and not owner.startswith(GUEST):
        item.customer_id = owner
    owner = summary.customer_id or owner
    if owner is None:
        return
    row = known.customer(summary.account, owner) or erased.customers.get((summary.account, owner))
    if row is None or row.erased_at is None:
        return
    is_late = summary.created is not None and summary.created <= row.erased_at
    item.is_barred = row.is_erased or is_late


_OF_PURCHASES = (
    *("charge.", "checkout.session.", "payment_intent.", "payment_method.", "setup_intent."),
    *("identity.", "radar.", "refund.", "review.", "source."),
)
"""Types of events whose own object belongs to a person, even if it names no other object."""


def owned(items: Sequence[Item], now: datetime, *, is_bare: bool) -> dict[str, Any]:
    """Returns the fields of Flush about what must not be kept, and about who owns the objects of these events."""
    barred = {"barred": [event_id for item in items if (event_id := barred_id(item)) is not None]}
    if is_bare:
        return barred
    return barred | {
        "objects": list(dict.fromkeys(row for item in items for row in _objects_of(item))),
        "owners": list(dict.fromkeys(row for item in items for row in _owners_of(item))),
        "owners_at": now,
    }


def _objects_of(item: Item) -> list[EventObjectRow]:
    """Returns the objects of an event whose payload is stored and whose customer is not known."""
    summary = summary_of(item)
    if summary is None or summary.customer_id is not None or item.customer_id is not None or item.is_barred:
        return []
    if isinstance(item.verdict, Duplicate) or summary.type.startswith("timer."):
        return []
    if not summary.guests and len(summary.named) < 2 and not summary.type.startswith(_OF_PURCHASES):
        return []  # a price, a payout: nothing about a person
    ids = dict.fromkeys((*map(bounded, summary.named), *summary.guests))
    return [EventObjectRow(account=summary.account, stripe_id=id_, event_id=summary.id) for id_ in ids]


def _owners_of(item: Item) -> list[ObjectOwnerRow]:
    """Returns whose the objects of an event are that names an erased customer, as its payload is not stored."""
    summary, value = summary_of(item), item.record.value
    if not item.is_barred or isinstance(item.verdict, Waiting) or summary is None or summary.customer_id is None:
        return []
    if value is None or summary.type.startswith("timer."):
        return []
    return [
        ObjectOwnerRow(account=summary.account, stripe_id=id_, customer_id=summary.customer_id)
        for id_ in named_ids(orjson.loads(value))
        if is_storable(id_) and id_ != summary.customer_id
    ]
