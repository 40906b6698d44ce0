"""Adds the facts that imported objects say about the time before the import (behaviours.md F1).

Stripe shows a subscription as it is now. It has earned since its start, and the lines of its paid invoices say what
its items were in between. Pure: the facts are made from those that are stored, whenever they are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from schemas.figures import Fact, FactKind
from schemas.record import IMPORT_PREFIX
from schemas.statuses import SubscriptionStatus as Status

_BEGAN_RANK, _BILLED_RANK = 10, 20
"""Before everything that an event of the same second says: that is what Stripe said at the time."""
_EARNED = (Status.ACTIVE, Status.PAST_DUE)
Items = dict[str, list[str]]
"""[price id, monthly rate] by item."""


def is_imported(fact: Fact) -> bool:
    """Whether `billing import` made the fact's event."""
    return fact.event_id.startswith(f"{IMPORT_PREFIX}_")


def with_history(facts: Sequence[Fact]) -> list[Fact]:
    """Returns the facts of one owner, and for each imported subscription how it was from its start on.

    `facts` must be in order (timeline.in_order); the result is not.
    """
    billed: dict[str, list[Sequence[Any]]] = defaultdict(list)
    for fact in facts:
        if fact.kind is FactKind.INVOICE_PAID and fact.data.get("billed"):
            billed[fact.data["subscription"]] += fact.data["billed"]
    return [
        made
        for fact in facts
        for made in (_history(fact, billed[fact.subject]) if "since" in fact.data else [fact])
    ]  # fmt: skip


def _history(fact: Fact, billed: Iterable[Sequence[Any]]) -> list[Fact]:
    """The present state at its time, and before it the start and each change that was billed."""
    since = datetime.fromtimestamp(fact.data["since"], UTC)
    states = {at: items for at, items in _states(billed).items() if at >= since}
    is_end_known = since == fact.created  # it has ended, and another fact says so
    status = str(Status.ACTIVE) if fact.data["status"] in _EARNED else fact.data["status"]
    earliest = list(next(iter(states.values())).values()) if states else fact.data["rates"]
    made = [_at(fact, since, _BEGAN_RANK, {"status": status, "rates": earliest})]
    made += [
        _at(fact, at, _BILLED_RANK, {"status": str(Status.ACTIVE), "rates": list(items.values())})
        for at, items in states.items()
        if is_end_known or at < fact.created
    ]
    return made if is_end_known else [*made, fact]


def _at(fact: Fact, at: datetime, rank: int, data: Mapping[str, Any]) -> Fact:
    event_id = f"{fact.event_id}/{rank}/{int(at.timestamp())}"
    return replace(fact, event_id=event_id, created=at, rank=rank, data={**fact.data, **data})


def _states(billed: Iterable[Sequence[Any]]) -> dict[datetime, Items]:
    """The items of a subscription from each time on at which a line says something, the earliest first.

    What is said before the first billed period is left out: it names only the items that changed.
    """
    by_start: dict[int, list[Sequence[Any]]] = defaultdict(list)
    for line in billed:
        by_start[line[0]].append(line)
    states: dict[datetime, Items] = {}
    items: Items | None = None
    for start in sorted(by_start):
        lines = by_start[start]
        whole = {item_id: price for _, item_id, is_whole, *price in lines if is_whole and price}
        if whole:
            items = whole
        if items is None:
            continue
        items = dict(items)
        for _, item_id, is_whole, *price in lines:
            if not is_whole and price:
                items[item_id] = price
            elif not is_whole:
                items.pop(item_id, None)
        states[datetime.fromtimestamp(start, UTC)] = items
    return states
