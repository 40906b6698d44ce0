"""Appends the present state of single objects at Stripe to the log, as events (behaviours.md D7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.reconcile.events import append
from schemas.record import Source
from schemas.refetch import refetched_event
from schemas.stripe.refund import with_charge
from sinks.stripe_api.api import ApiResponse
from sinks.stripe_api.listing import ListingBroken, Lists

_EXPANDED = {"refunds": {"expand": ["charge"]}}
"""What is read with an object: only its charge has the sum of all refunds, which shows what a lost one has changed."""
_PATHS = {
    "sub_": "subscriptions",
    "in_": "invoices",
    "re_": "refunds",
    "pyr_": "refunds",
    "ch_": "charges",
    "py_": "charges",
    "cus_": "customers",
}
"""How Stripe's ids of these objects begin → the path."""
_INVOICES = {"paid": "invoice.paid", "void": "invoice.voided", "uncollectible": "invoice.marked_uncollectible"}
"""Status of an invoice → the type of the event that reports it."""
_CHARGES = {"succeeded": "charge.succeeded", "failed": "charge.failed"}
"""Status of a charge → the type of the event that reports it. No rule applies `charge.updated`."""


def path_of(object_id: str) -> str:
    """Return the object's path. Raises ValueError if no event can report such an object."""
    name = next((name for prefix, name in _PATHS.items() if object_id.startswith(prefix)), None)
    if name is None or not (object_id.isascii() and object_id.replace("_", "").isalnum()):
        known = ", ".join(f"{prefix}…" for prefix in _PATHS)
        raise ValueError(f"{object_id!r:.60} is not the id of an object that can be read again ({known})")
    return f"/v1/{name}/{object_id}"


async def refetch(
    lists: Lists, event_log: EventAppender, object_ids: Sequence[str], account: str, *, clock: Callable[[], datetime]
) -> int:
    """Read the objects at Stripe, append them to the log, and return their number.

    Raises ValueError, ApiTrouble, LogUnavailable.
    """
    paths = [path_of(id_) for id_ in object_ids]
    for path in paths:
        answer = await lists.get(path, account, _EXPANDED.get(path.split("/")[2], {}))
        if answer.body.get("id") != path.rpartition("/")[2]:
            raise ListingBroken(f"{path}: Stripe answered with another object")
        await append(event_log, [_entry(answer, account, livemode=lists.mode.livemode, now=clock())])
    return len(paths)


def _entry(answer: ApiResponse, account: str, *, livemode: bool, now: datetime) -> Entry:
    item = orjson.loads(answer.text)
    if item.get("object") == "refund" and isinstance(item.get("charge"), Mapping):
        item = with_charge(item, item["charge"])
    paid_at = _paid_at(item)
    event = refetched_event(
        f"refetch:{account}/{item['id']}:{answer.as_of.isoformat()}",
        item,
        # The event of a paid invoice is dated when it was paid: a later date would override later changes.
        at=paid_at or answer.as_of,
        account=account,
        livemode=livemode,
        api_version=answer.api_version,
        request_id=answer.request_id,
    )
    types = {"invoice": _INVOICES, "charge": _CHARGES}.get(item["object"], {})
    event["type"] = types.get(item.get("status"), event["type"])
    return Entry.of(
        event,
        source=Source.RECONCILE,
        received_at=now,
        livemode=livemode,
        account=account,
        api_version=answer.api_version,
    )


def _paid_at(item: Mapping[str, Any]) -> datetime | None:
    if item["object"] != "invoice" or item.get("status") != "paid":
        return None
    transitions = item.get("status_transitions")
    paid_at = transitions.get("paid_at") if isinstance(transitions, dict) else None
    return datetime.fromtimestamp(paid_at, UTC) if type(paid_at) is int else None
