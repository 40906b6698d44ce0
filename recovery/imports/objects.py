"""Turns Stripe's present objects into events with `source=import` (behaviours.md F1).

An object's event is dated when the object certainly had this state, so that every later live event wins. A paid, voided
or failed invoice and a refund are dated when that happened. The id comes from the content: an import of an unchanged
object is the same event, which the ledger drops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from eventlog.entry import Entry
from schemas.record import IMPORT_PREFIX, Source
from schemas.refetch import TYPES, refetched_event
from schemas.state import derived_id
from schemas.stripe.refund import LOST
from sinks.stripe_api.listing import Page

_INVOICES = {
    "paid": ("invoice.paid", "paid_at"),
    "void": ("invoice.voided", "voided_at"),
    "uncollectible": ("invoice.marked_uncollectible", "marked_uncollectible_at"),
}
"""Status of a settled invoice → the event that reports it, and the transition with its time."""

Object = Mapping[str, Any]


def entries_of(obj: Object, page: Page, *, account: str, livemode: bool, now: datetime) -> list[Entry]:
    """Returns the records of one object: none for a draft, two for a subscription that has ended.

    A refund has its charge expanded. The charge's event has the customer and the sum of its refunds, so the newest
    refund of a charge, which Stripe lists first, is enough; those of older ones are the same event.
    """
    as_of = int(page.as_of.timestamp())
    made: list[tuple[str, int]] = []
    match obj.get("object"):
        case "invoice":
            found = _of_invoice(obj, as_of)
            made = [found] if found is not None else []
        case "subscription" if obj.get("ended_at") is not None:
            # Analytics needs both ends. The first is older, so it changes nothing that the second says.
            start = _first_time(obj.get("start_date"), obj.get("created"), otherwise=as_of)
            made = [("customer.subscription.created", start), (TYPES["subscription"], as_of)]
        case "refund":
            created, obj = _first_time(obj.get("created"), otherwise=as_of), obj["charge"]
            made = [("charge.refunded", created)]
        case kind:
            made = [(TYPES[str(kind)], as_of)]
    return [_entry(obj, type_, at, page, account, livemode=livemode, now=now) for type_, at in made]


def is_lost_refund(refund: Object) -> bool:
    """Whether the refund failed or was canceled, so that its charge does not count it."""
    return refund.get("status") in LOST


def _of_invoice(obj: Object, as_of: int) -> tuple[str, int] | None:
    transitions = obj.get("status_transitions")
    times: Mapping[str, Any] = transitions if isinstance(transitions, Mapping) else {}
    status = str(obj.get("status"))
    if status in _INVOICES:
        type_, name = _INVOICES[status]
        return type_, _first_time(times.get(name), times.get("finalized_at"), obj.get("created"), otherwise=as_of)
    if status != "open":
        return None
    if obj.get("attempt_count"):
        # The first try comes with the finalization. Grace times and reminders count from it.
        return "invoice.payment_failed", _first_time(times.get("finalized_at"), obj.get("created"), otherwise=as_of)
    return TYPES["invoice"], as_of


def _first_time(*times: object, otherwise: int) -> int:
    return next((time for time in times if type(time) is int), otherwise)


def _entry(obj: Object, type_: str, at: int, page: Page, account: str, *, livemode: bool, now: datetime) -> Entry:
    digest = hashlib.sha256(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)).hexdigest()
    moment = datetime.fromtimestamp(at, now.tzinfo)
    event = refetched_event(
        "", obj, at=moment, account=account, livemode=livemode, api_version=page.api_version, request_id=page.request_id
    )
    event |= {"id": derived_id(IMPORT_PREFIX, type_, account, str(obj["id"]), digest), "type": type_}
    return Entry.of(
        event, source=Source.IMPORT, received_at=now, livemode=livemode, account=account, api_version=page.api_version
    )
