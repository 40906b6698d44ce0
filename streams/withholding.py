"""Decides what an event may not cause outside this system, whatever its rule orders (behaviours.md F1, F2).

An imported object happened before this system took over: only its state is stored, and reminders that are still ahead
are set. `mail.not_before` withholds the mails of older events. The rules know neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from schemas.effects import CallStripe, Order, QueueEmail
from schemas.record import IMPORT_PREFIX, Source
from schemas.settings import Mail
from sinks.postgres.store import Transaction
from streams.item import Item

_SOURCE, _PREFIX = str(Source.IMPORT), f"{IMPORT_PREFIX}_"
IMPORTED = "imported: this happened before the system took over"


async def find_imported(items: Sequence[tuple[str, Item]], transaction: Transaction) -> None:
    """Sets `was_imported` and `imported_at` of those that the ledger has as waiting or dead, by event id."""
    again = [event_id for event_id, item in items if item.earlier_outcome]
    imported = await transaction.imported(again) if again else {}
    for event_id, item in items:
        item.was_imported, item.imported_at = event_id in imported, imported.get(event_id)


def is_imported(item: Item) -> bool:
    """Whether `billing import` made or fetched the event.

    The source says so until something else appends it again: a replay, a reconciliation, Stripe. Then the ledger does,
    and the id of what the import made.
    """
    if item.was_imported or item.record.headers.get("source") == _SOURCE:
        return True
    return is_made_by_import(item)


def is_made_by_import(item: Item) -> bool:
    """Whether `billing import` made the event from a present object: no later event brings what the object misses.

    An event that it fetched has Stripe's id. What this one misses may follow on another partition, as in a delivery.
    """
    event = item.decoded.event if item.decoded else None
    return event is not None and event.id.startswith(_PREFIX)


def taken_over_at(item: Item) -> datetime | None:
    """Returns when an imported object was read (UTC); None for any other event.

    It comes from the import's record, so that a rebuild decides the same, also if something else appends it later.
    """
    return (item.imported_at or item.record.received_at) if is_imported(item) else None


def why_withheld(order: Order, item: Item, mail: Mail) -> str | None:
    """Returns the reason why this order must not be delivered, or None.

    Reading from Stripe is allowed for an imported object, too: it completes the state.
    """
    if is_imported(item) and not (isinstance(order, CallStripe) and order.method == "GET"):
        return IMPORTED
    event = item.decoded.event if item.decoded else None
    if isinstance(order, QueueEmail) and mail.not_before is not None and event is not None:
        happened_at = datetime.fromtimestamp(event.created, UTC)
        if happened_at < mail.not_before:
            return f"mail.not_before: it is about {happened_at:%Y-%m-%d %H:%M} UTC"
    return None
