"""The list of events, one event's story, and its bytes as they are on the log."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web

from console import params
from console.access import Action
from console.errors import NotFound, Refused
from console.pages.story import changes_of, next_steps, timeline_of
from console.reads import PANEL_S, panels
from console.reveals import page_of
from console.web import Answer, Console, Context, Page, get
from eventlog.lookup import RecordLookup
from schemas.errors import LogUnavailable
from schemas.ordering import object_of
from schemas.payloads import ArchiveAway
from schemas.record import Source
from schemas.settings import InvalidSettings
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import queries
from sinks.postgres.lists import Found, events, row, stories
from sinks.postgres.lists.events import EventFilter, ListPosition
from sinks.postgres.outboxes import BY_TABLE
from streams.rules.catalog import STREAMS
from streams.rules.registry import OTHER

OPENS_ON = timedelta(hours=24)
ALL = "all"


async def listing(context: Context) -> Answer:
    """Shows a page of events."""
    query = context.query
    found_place = params.place(query, "before")
    customer = params.text(query, "customer")
    is_all = query.get("since") == ALL or (customer and "since" not in query)
    since = None if is_all else params.time(query, "since") or context.console.clock() - OPENS_ON
    livemode = {"live": True, "test": False}.get(params.text(query, "mode"))
    wanted = EventFilter(
        **{
            name: params.text(query, name)
            for name in ("type", "outcome", "stream", "customer", "object", "endpoint", "source", "account")
        },
        livemode=livemode,
        since=since,
        until=params.time(query, "until"),
        before=ListPosition(*found_place) if found_place else None,
    )
    if wanted.object and not customer:
        raise Refused("Events of one object are looked for among those of its customer: give the customer, too.")
    found = await panels({"page": context.console.reads.ask(lambda connection: events.listed(connection, wanted))})
    listed = found["page"]
    is_page = isinstance(listed, events.EventPage)
    data: dict[str, Any] = {
        "events": listed.events if is_page else listed,
        "next": params.place_text(listed.next.at, listed.next.event_id) if is_page and listed.next else None,
        "is_cut": is_page and listed.is_cut,
        "cut_at": listed.next.at if is_page and listed.is_cut and listed.next else None,
        "looked_at": listed.looked_at if is_page else 0,
        "streams": sorted({*STREAMS, OTHER}),
        "sources": [source.value for source in Source],
        "since": since,
    }
    return Page("events.j2", "Events", data, live=not wanted.before)


async def story(context: Context) -> Answer:
    """Shows everything about one event."""
    console, event_id = context.console, context.part("event_id")
    found = await console.reads.ask(
        lambda connection: queries.event_overview(connection, event_id, console.settings.events_topic)
    )
    if found is None:
        raise NotFound(f"Event {event_id} has no verdict and left no trace. It may be on the log, or at Stripe.")
    event: Found | None = found["event"]
    near: Any = {"previous": None, "next": None}
    payload, changes = None, list[dict[str, Any]]()
    if event is not None:
        payload, changes = event.pop("payload", None), changes_of({"changes": event.pop("changes", None)})
        text = await console.reads.ask(lambda connection: _payload_text(connection, event_id))
        near = (await panels({"near": console.reads.ask(lambda c: events.neighbours(c, event))}))["near"]
        payload = text if text is not None else payload
    away = None
    if event is not None and payload is None and context.may(Action.REVEAL) and context.is_revealed:
        payload, away = await _archived_text(console, event)
    data = {
        "event": event,
        "event_id": event_id,
        "timeline": timeline_of(found),
        "not_done": stories.not_done(found),
        "changes": changes,
        **{name: found[name] for name in ("wrote", "timers", "dead_letters", *BY_TABLE)},
        "near": near,
        "next": next_steps(event_id, found),
        "payload": payload,
        "away": away,
        "object_id": _of_object(payload, "id"),
        "currency": _of_object(payload, "currency"),
    }
    return Page("event.j2", event_id, data)


async def raw(context: Context) -> Answer:
    """Sends the event's bytes as the log has them: exact, whatever JSON makes of them."""
    console, event_id = context.console, context.part("event_id")
    if not context.console.reveals.is_open(context.person.who, page_of(f"/events/{quote(event_id)}")):
        raise NotFound("Reveal the event's data on its page first: the bytes contain personal data.")
    found = await console.reads.ask(
        lambda connection: row(
            connection,
            'SELECT "partition", "offset" FROM billing.events WHERE event_id = :event_id',
            {"event_id": event_id},
        )
    )
    if found is None or found["partition"] is None:
        raise NotFound(f"Event {event_id} has no place on the log.")
    body = await asyncio.to_thread(_read, console, event_id, found["partition"], found["offset"])
    if body is None:
        raise NotFound(f"The log no longer has event {event_id}: its retention has ended.")
    headers = {"Content-Disposition": f'attachment; filename="{event_id}.json"'}
    return web.Response(body=body, content_type="application/octet-stream", headers=headers)


def _read(console: Console, event_id: str, partition: int, offset: int) -> bytes | None:
    """Returns the value of a record. A topic that was made again may have another event at this place."""
    with RecordLookup(console.settings.kafka, console.settings.events_topic) as lookup:
        message = lookup.read(partition, offset)
    value = message.value() if message is not None else None
    if value is None:
        return None
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise LogUnavailable(f"the record at {partition}/{offset} is not JSON: {error}") from None
    return bytes(value) if isinstance(found, dict) and found.get("id") == event_id else None


async def _payload_text(connection: Any, event_id: str) -> str | None:
    """Returns the payload as Postgres writes it: every digit of a number is kept."""
    found = await row(
        connection,
        "SELECT jsonb_pretty(payload) AS payload FROM billing.events WHERE event_id = :event_id",
        {"event_id": event_id},
    )
    return found["payload"] if found else None


async def _archived_text(console: Console, event: Found) -> tuple[str | None, str | None]:
    """Returns the payload that is in the archive, as Postgres writes it, and why it cannot be read now."""
    event_id, place = event["event_id"], event["payload_place"]
    key = await console.reads.ask(lambda connection: queries.payload_key(connection, event_id)) if place else None
    if key is None:
        return None, None
    try:
        async with asyncio.timeout(PANEL_S):
            kept = await PayloadArchive(console.settings.payloads_url).read(event_id, place, key)
    except TimeoutError:
        return None, "the archive of payloads does not answer"
    except (ArchiveAway, InvalidSettings) as error:
        return None, str(error)
    query = "SELECT jsonb_pretty(CAST(:kept AS jsonb)) AS payload"
    found = await console.reads.ask(lambda connection: row(connection, query, {"kept": kept}))
    return (found["payload"] if found else None), None


def _of_object(payload: str | None, name: str) -> str | None:
    """Returns a text of the event's object, None without one."""
    if not isinstance(payload, str):
        return None
    found = object_of(orjson.loads(payload)).get(name)
    return found if isinstance(found, str) else None


ROUTES = [
    get("/events", listing),
    get("/events/{event_id}", story),
    get("/events/{event_id}/raw", raw, Action.REVEAL, is_page=False),
]
