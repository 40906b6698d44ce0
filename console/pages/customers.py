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
from console.reads import panels
from console.web import Answer, Console, Context, NotFound, Page, Redirect, get
from eventlog.entry import headers_of
from eventlog.lookup import RecordLookup
from schemas.record import decode_headers
from sinks.postgres import queries
from sinks.postgres.lists import Found, find, row, rows

_SHOWN = 100
_MAY_RESTORE = ("customer.subscription.", "invoice.paid", "invoice.payment_succeeded", "checkout.")
_GIVES_ACCESS = frozenset({"active", "trialing"})


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
            "open_letters": ask(lambda c: _open_letters(c, account, customer_id)),
            "disputes": ask(lambda c: _disputes(c, account, customer_id)),
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
        "subscriptions": found["subscriptions"],
        "payments": found["payments"],
        "payment_methods": found["payment_methods"],
        "emails": found["emails"],
        "upcoming": sorted(
            (timer for timer in found["timers"] if timer["status"] == "pending"), key=lambda timer: timer["due_at"]
        ),
        "timeline": timeline_of(found),
        "totals": found["totals"],
        "chain": chain_of(found, more) if isinstance(more["open_letters"], list) else [],
        **more,
    }
    return Page("customer.j2", customer_id, data)


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


def chain_of(found: Mapping[str, Any], more: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns why the customer has access or not, as facts in the order of cause: `text`, `level`, `url`."""
    facts: list[dict[str, str]] = []

    def add(text: str, level: str = "", url: str = "") -> None:
        facts.append({"text": text, "level": level, "url": url})

    organization = found["organization"]
    access = more.get("access")
    access = access if isinstance(access, Mapping) else organization
    if not access:
        add("No organization is stored: no event has created one.", "wait")
    elif access["has_access"]:
        plan = f" by plan {access['plan']}" if access["plan"] else ""
        add(f"Has access{plan}: {_reason(access) or 'a subscription gives it'}.", "ok")
    else:
        add(f"Has no access: {_reason(access) or 'no subscription gives any'}.", "bad")
    for subscription in found["subscriptions"]:
        status, since = subscription["status"], _since(subscription)
        level = "ok" if status in _GIVES_ACCESS else "bad"
        event = subscription["status_version"].rpartition(":")[2]
        add(f"{subscription['subscription_id']} is {status.replace('_', ' ')}{since}.", level, _event(event))
        if subscription["plan"] is None and subscription["price_id"]:
            add(f"Its price {subscription['price_id']} is in no plan of the config.", "bad", "/settings#plans")
    if not found["subscriptions"]:
        add("No subscription is stored.", "wait")
    for payment in found["payments"]:
        if payment["status"] == "failed":
            reason = f" ({payment['failure_reason']})" if payment["failure_reason"] else ""
            amount = formats.money(payment["amount"], payment["currency"])
            what = payment["invoice_id"] or payment["payment_id"]
            text = f"{what} over {amount} failed, attempt {payment['attempt_count']}{reason}."
            add(text, "bad", _event(payment["failure_version"].rpartition(":")[2]))
            for step, at in sorted(payment["dunning_steps"].items(), key=lambda item: str(item[1])):
                add(f"{step}: {str(at)[:16].replace('T', ' ')} UTC.", "")
    waiting = [event for event in found["events"] if event["outcome"] == "waiting"]
    for event in waiting:
        add(f"{event['event_id']} ({event['type']}) waits: {event['reason']}", "wait", _event(event["event_id"]))
    letters = more.get("open_letters") or []
    for letter in letters:
        text = f"{letter['event_id']} ({letter['type']}) is dead: {letter['error_class']}: {letter['message']}"
        restores = " It may restore access." if may_restore(letter["type"]) else ""
        add(text + restores, "bad", _event(letter["event_id"]))
    if not waiting and not letters:
        add("Nothing of this customer is waiting or dead.", "ok")
    return facts


def _reason(access: Mapping[str, Any]) -> str:
    """Returns the reason of a row of the view `access`, or of an organization."""
    return str(access.get("reason") or access.get("access_reason") or "").replace("_", " ")


def may_restore(type_: str | None) -> bool:
    """Returns whether an event of this type can give a customer access."""
    return (type_ or "").startswith(
        ("customer.subscription.", "invoice.paid", "invoice.payment_succeeded", "checkout.")
    )


def timeline_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns events and mails of the customer, the newest first: `at`, `kind`, `what`, `state`, `detail`, `url`."""
    steps = [
        {"at": event["created"] or event["received_at"], "kind": "events", "what": event["type"],
         "state": event["outcome"], "detail": event["reason"] or "", "id": event["event_id"],
         "url": _event(event["event_id"])}
        for event in found["events"]
    ] + [
        {"at": mail["sent_at"] or mail["queued_at"], "kind": "mails", "what": f"mail {mail['template']}",
         "state": mail["status"], "detail": mail["last_error"] or "", "id": mail["email_key"],
         "url": f"/mails/{quote(mail['email_key'], safe='')}"}
        for mail in found["emails"]
    ]  # fmt: skip
    return sorted((step for step in steps if step["at"] is not None), key=_at, reverse=True)


def _at(step: Mapping[str, Any]) -> datetime:
    at: datetime = step["at"]
    return at


def _since(subscription: Found) -> str:
    for name in ("ended_at", "payment_failed_at", "canceled_at"):
        if subscription.get(name) and subscription["status"] not in _GIVES_ACCESS:
            return f" since {subscription[name]:%Y-%m-%d}"
    return ""


def _event(event_id: str | None) -> str:
    return formats.url_of(event_id) if event_id and event_id.startswith(("evt_", "tmr_")) else ""


async def _access(connection: AsyncConnection, account: str, customer_id: str) -> Found | None:
    return await row(
        connection,
        """SELECT plan, has_access, reason, changes_at, limits FROM billing.access
        WHERE account = :account AND customer_id = :customer_id""",
        {"account": account, "customer_id": customer_id},
    )


async def _open_letters(connection: AsyncConnection, account: str, customer_id: str) -> list[Found]:
    return await rows(
        connection,
        """SELECT event_id, type, stage, error_class, message, last_failed_at FROM billing.dead_letters
        WHERE account = :account AND customer_id = :customer_id AND status = 'open'
        ORDER BY last_failed_at DESC LIMIT 20""",
        {"account": account, "customer_id": customer_id},
    )


async def _disputes(connection: AsyncConnection, account: str, customer_id: str) -> list[Found]:
    return await rows(
        connection,
        """SELECT d.dispute_id, d.amount, d.currency, d.reason, d.status, d.due_by FROM billing.disputes d
        WHERE d.account = :account AND d.charge_id IN (SELECT l.stripe_id FROM billing.payments p
            JOIN billing.payment_links l ON l.payment_id = p.payment_id
            WHERE p.account = :account AND p.customer_id = :customer_id)
        ORDER BY d.due_by DESC NULLS LAST LIMIT 20""",
        {"account": account, "customer_id": customer_id},
    )


ROUTES = [get("/customers/{customer_id}", page), get("/search", search)]
