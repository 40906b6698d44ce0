"""Turns Stripe's present objects into events with `source=import` (behaviours.md F1).

An object's event is dated when the object certainly had this state, so that every later live event wins. A paid, voided
or failed invoice and what a charge has refunded are dated when that happened. The id of such an event comes from the
content alone: each import of it makes the same event, which the ledger drops. The id of an event that is dated when its
object was read also has the import's begin. So a later import repairs a state that an earlier one has reported, too,
and an import that continues makes the same events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from eventlog.entry import Entry
from schemas.record import IMPORT_PREFIX, Source
from schemas.refetch import TYPES, refetched_event
from schemas.state import derived_id
from schemas.stripe.refund import LOST, with_charge
from sinks.stripe_api.listing import ListPage

_INVOICES = {
    "paid": ("invoice.paid", "paid_at"),
    "void": ("invoice.voided", "voided_at"),
    "uncollectible": ("invoice.marked_uncollectible", "marked_uncollectible_at"),
}
"""Status of a settled invoice → the event that reports it, and the transition with its time."""

Object = Mapping[str, Any]


def entries_of(
    obj: Object, page: ListPage, *, account: str, livemode: bool, now: datetime, began_at: datetime
) -> list[Entry]:
    """Returns the records of one object: none for a draft, two for a refund, a failed invoice, an ended subscription.

    `began_at` is when the import began, `now` the time of the records, both UTC.

    A refund has its charge expanded. One event is about the refund, whose charge has the present sum of its refunds.
    Another one dates that sum by the newest refund, which Stripe lists first; those of older ones are the same event.
    """
    made: list[tuple[Object, str, int | None]] = []
    match obj.get("object"):
        case "event":
            return [_past(obj, account, livemode=livemode, now=now)]
        case "invoice":
            made = [(obj, *one) for one in _of_invoice(obj)]
        case "subscription" if obj.get("ended_at") is not None:
            # Analytics needs both ends. The first is older, so it changes nothing that the second says.
            start = _first_time(obj.get("start_date"), obj.get("created"))
            made = [(obj, "customer.subscription.created", start), (obj, TYPES["subscription"], None)]
        case "refund":
            charge = obj["charge"]
            made = [(with_charge(obj, charge), TYPES["refund"], None)]
            if obj.get("status") not in LOST:  # the sum does not contain a lost one
                made.insert(0, (charge, "charge.refunded", _first_time(obj.get("created"))))
        case kind:
            made = [(obj, TYPES[str(kind)], None)]
    return [
        _entry(one, type_, at, page, account, livemode=livemode, now=now, began_at=began_at) for one, type_, at in made
    ]


def _past(event: Object, account: str, *, livemode: bool, now: datetime) -> Entry:
    """Returns the record of an event as it happened. Its id is Stripe's, so one that has arrived is dropped."""
    # An event fetched with the header Stripe-Account lacks `account`; in a webhook it has this field.
    own = dict(event) | ({"account": account} if account else {})
    return Entry.of(
        own, source=Source.IMPORT, received_at=now, livemode=livemode, account=account,
        api_version=event.get("api_version"),
    )  # fmt: skip


def _of_invoice(obj: Object) -> list[tuple[str, int | None]]:
    """Returns the types of its events and when they happened, None for the time of reading."""
    transitions = obj.get("status_transitions")
    times: Mapping[str, Any] = transitions if isinstance(transitions, Mapping) else {}
    status = str(obj.get("status"))
    if status in _INVOICES:
        type_, name = _INVOICES[status]
        return [(type_, _first_time(times.get(name), times.get("finalized_at"), obj.get("created")))]
    if status != "open":
        return []
    present: tuple[str, int | None] = (TYPES["invoice"], None)
    if not obj.get("attempt_count"):
        return [present]
    # The first try comes with the finalization. Grace times and reminders count from it. What is owed is of now: credit
    # notes since then are in it.
    return [("invoice.payment_failed", _first_time(times.get("finalized_at"), obj.get("created"))), present]


def _first_time(*times: object) -> int | None:
    return next((time for time in times if type(time) is int), None)


def _entry(
    obj: Object,
    type_: str,
    at: int | None,
    page: ListPage,
    account: str,
    *,
    livemode: bool,
    now: datetime,
    began_at: datetime,
) -> Entry:
    content = hashlib.sha256(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS))
    if at is None:
        content.update(began_at.astimezone(UTC).isoformat().encode())
    digest = content.hexdigest()
    moment = datetime.fromtimestamp(at if at is not None else int(page.as_of.timestamp()), UTC)
    event = refetched_event(
        "", obj, at=moment, account=account, livemode=livemode, api_version=page.api_version, request_id=page.request_id
    )
    event |= {"id": derived_id(IMPORT_PREFIX, type_, account, str(obj["id"]), digest), "type": type_}
    return Entry.of(
        event, source=Source.IMPORT, received_at=now, livemode=livemode, account=account, api_version=page.api_version
    )
