"""One customer: head, access and why, timeline, money, what comes next. And the search that leads there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection

from console import formats, params
from console.errors import NotFound, Refused
from console.reads import panels
from console.web import Answer, Console, Context, Page, Redirect, get
from eventlog.entry import headers_of
from eventlog.lookup import RecordLookup
from schemas.record import decode_headers
from sinks.postgres import queries
from sinks.postgres.lists import Found, find, row, samples, stories
from sinks.postgres.lists.past import access_at, not_shown, undone
from sinks.postgres.outboxes import ERASED

_SHOWN = 100


async def page(context: Context) -> Answer:
    """Shows one customer."""
    customer_id, account = context.part("customer_id"), params.text(context.query, "account")
    ask = context.console.reads.ask
    found = await ask(lambda c: queries.customer_overview(c, account, customer_id, limit=_SHOWN))
    if found is None:
        where = f" in account {account}" if account else ""
        raise NotFound(f"Customer {customer_id} is not known{where}.")
    more = await panels(
        {
            "access": ask(lambda c: _access(c, account, customer_id)),
        }
    )
    customer = found["customer"]
    is_erased = bool(customer and customer["erased_at"] and not customer["returned_at"])
    data: dict[str, Any] = {
        "customer_id": customer_id,
        "account": account,
        "customer": customer if not is_erased else {"customer_id": customer_id, "erased_at": customer["erased_at"]},
        "is_erased": is_erased,
        "organization": found["organization"],
        "members": found["members"],
        "disputes": found["disputes"],
        "subscriptions": found["subscriptions"],
        "payments": found["payments"],
        "payment_methods": found["payment_methods"],
        "emails": found["emails"],
        "upcoming": sorted(
            (timer for timer in found["timers"] if timer["status"] == "pending"), key=lambda timer: timer["due_at"]
        ),
        "timeline": timeline_of(found),
        "totals": found["totals"],
        "chain": [
            asdict(fact) | {"url": _event(fact.event_id)}
            for fact in stories.access_chain(found | _known(more), formats.money)
        ],
        **more,
    }
    return Page("customer.j2", customer_id, data)


async def past(context: Context) -> Answer:
    """Shows the customer's rows at a past moment, as `billing customer ID --at TIME`: later changes are undone."""
    customer_id, account = context.part("customer_id"), params.text(context.query, "account")
    at = params.time(context.query, "at")
    if at is None or at > context.console.clock():
        raise Refused("at is a past moment, such as 2026-11-27T09:14")
    try:
        found = await context.console.reads.ask(lambda c: _at_a_moment(c, account, customer_id, at))
    except queries.TooManyRows as error:
        raise Refused(str(error)) from None
    if found is None:
        raise NotFound(f"Customer {customer_id} is not known.")
    data = {"customer_id": customer_id, "account": account, "at": at, **found}
    return Page("past.j2", f"{customer_id} at {at:%Y-%m-%d %H:%M:%S} UTC", data)


async def _at_a_moment(connection: AsyncConnection, account: str, customer_id: str, at: datetime) -> Found | None:
    present = await queries.customer_state(connection, account, customer_id)
    changes = await samples.changes_since(connection, account, customer_id, at)
    if not changes and not any(present.values()):
        return None
    if len(changes) == samples.MOST_CHANGES:
        raise Refused(f"Over {len(changes):,} events have changed this customer since then: choose a later moment.")
    state = undone(present, changes)
    return {
        # As lists of rows with their table, so that a person's rows are masked.
        "tables": [
            {"name": table, "rows": [{"table": table, "key": key, "fields": fields} for key, fields in rows.items()]}
            for table, rows in state.items()
        ],
        "accesses": [access_at(row, at) for row in state.get("organizations", {}).values()],
        "undone": len(changes),
        "not_shown": not_shown(present, changes),
        "kept_since": await samples.changes_kept_since(connection, account, customer_id),
        "first_at": await samples.first_applied(connection, account, customer_id) if not state else None,
    }


async def search(context: Context) -> Answer:
    """Shows what the search found. One hit opens at once."""
    query = params.text(context.query, "q")
    settings = context.console.settings
    hits = await context.console.reads.ask(lambda c: find.find(c, query, dead_topic=settings.dead_topic))
    if not hits and (place := find.place_of(query)) is not None and place[0] == settings.events_topic:
        hits = await asyncio.to_thread(_on_the_log, context.console, place[1], place[2])
    if len(hits) == 1 and not context.wants_json:
        return Redirect(url_of_hit(hits[0]))
    found = [asdict(hit) | {"url": url_of_hit(hit)} for hit in hits]
    return Page("search.j2", "Search", {"q": query, "hits": found, "most": find.MOST})


def _on_the_log(console: Console, partition: int, offset: int) -> list[find.Hit]:
    with RecordLookup(console.settings.kafka, console.settings.events_topic) as lookup:
        message = lookup.read(partition, offset)
    event_id = decode_headers(headers_of(message)).get("event_id") if message is not None else None
    return [find.Hit("event", event_id, "", None, "on the log")] if event_id else []


def url_of_hit(hit: find.Hit) -> str:
    """Returns the page that shows what was found."""
    if hit.kind == "mail":
        return f"/mails/{quote(hit.id, safe='')}"
    if hit.kind == "account":
        return f"/events?account={quote(hit.id, safe='')}"
    if hit.kind == "event" or hit.customer_id is None:
        return formats.url_of(hit.id) if hit.kind == "event" else "/timers"
    return formats.url_of(hit.customer_id, hit.account)


def timeline_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns events and mails of the customer, the newest first: `at`, `kind`, `what`, `state`, `detail`, `url`."""
    steps = [
        {"at": event["created"] or event["received_at"], "kind": "events", "what": event["type"],
         "state": event["outcome"], "detail": event["reason"] or "", "id": event["event_id"],
         "url": _event(event["event_id"])}
        for event in found["events"]
    ] + [
        {"at": mail["sent_at"] or mail["queued_at"], "kind": "mails", "what": f"mail {mail['template']}",
         "state": "erased" if mail["last_error"] == ERASED else mail["status"],
         "detail": mail["last_error"] if mail["last_error"] != ERASED else "", "id": mail["email_key"],
         "url": f"/mails/{quote(mail['email_key'], safe='')}"}
        for mail in found["emails"]
    ]  # fmt: skip
    return sorted((step for step in steps if step["at"] is not None), key=_at, reverse=True)


def _at(step: Mapping[str, Any]) -> datetime:
    at: datetime = step["at"]
    return at


def _event(event_id: str | None) -> str:
    return formats.url_of(event_id) if event_id and event_id.startswith(("evt_", "tmr_")) else ""


def _known(more: Mapping[str, Any]) -> dict[str, Any]:
    return {"access": more["access"]} if isinstance(more["access"], Mapping) else {}


async def _access(connection: AsyncConnection, account: str, customer_id: str) -> Found | None:
    return await row(
        connection,
        """SELECT plan, has_access, reason, changes_at, limits FROM billing.access
        WHERE account = :account AND customer_id = :customer_id""",
        {"account": account, "customer_id": customer_id},
    )


ROUTES = [
    get("/customers/{customer_id}", page),
    get("/customers/{customer_id}/past", past),
    get("/search", search),
]
