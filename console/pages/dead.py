"""Dead letters in groups of one cause: a sample, a dry run, and replay or discard of all that match, as a job."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection

from console import params
from console.access import Action
from console.errors import Refused
from console.forms import Confirmed, confirmed, form_values
from console.jobs import filter_to_json
from console.reads import SOON_S, panels
from console.web import Answer, Context, Page, Redirect, get, post
from eventlog.entry import headers_of
from eventlog.lookup import RecordLookup
from eventlog.threads import in_thread
from recovery.rehearsal.rehearse import rehearse_letters
from recovery.rehearsal.shapes import compared_at, differences, failing_places, is_same_place, values_at
from recovery.replay.letters import read_letter
from schemas.command_line import command
from schemas.dead_letter import PREFIX
from schemas.record import decode_headers
from sinks.postgres.dead_letter_index import NO_FRAME, DeadLetterIndex, IndexedLetter, LetterFilter
from sinks.postgres.lists import dead, row, samples
from sinks.postgres.tables.log import LETTER_STATUSES
from streams.rules.catalog import RULES

MOST_AT_ONCE = 100_000
MOST_REHEARSED = 1000
REHEARSAL_S = 30.0
_SAMPLE = 20
_LEAST_FRAGMENT = 8
_LONGEST_VALUE = 120
_TRACEBACK = f"{PREFIX}traceback"


async def page(context: Context) -> Answer:
    """Shows the groups, or with filters the letters that match."""
    ask, kept = context.console.reads.ask, context.console.reads.kept
    wanted = filter_of(context.query)
    has_filter = bool(filter_to_json(wanted))
    status = params.text(context.query, "status") or "open"
    if status not in LETTER_STATUSES:
        raise Refused(f"status is one of {', '.join(LETTER_STATUSES)}")
    named: dict[str, Any] = {
        "groups": kept(f"groups of {status}", lambda c: dead.groups(c, status), lasts_s=SOON_S, stale_s=SOON_S),
        "counts": kept("letters by status", dead.counts, lasts_s=SOON_S, stale_s=SOON_S),
        "letters": ask(lambda c: DeadLetterIndex(c).find(wanted, newest_first=True)),
    }
    if context.may(Action.SEE_MONEY):
        named["money"] = kept("money of groups", dead.money_of_groups)
    found = await panels(named)
    if isinstance(found["groups"], list):
        found["groups"] = [
            group | {"fragment": fragment_of(group), "frame": group["top_frame"] or NO_FRAME}
            for group in found["groups"]
        ]
    return Page(
        "dead.j2",
        "Dead letters",
        {**found, "money": found.get("money", []), "status": status, "has_filter": has_filter},
        live=True,
    )


async def letter(context: Context) -> Answer:
    """Shows one letter with its traceback, which only the dead-letter topic has."""
    event_id = context.part("event_id")
    console = context.console
    found = await console.reads.ask(
        lambda c: DeadLetterIndex(c).find(LetterFilter(ids=(event_id,), limit=_SAMPLE), newest_first=True)
    )
    if not found:
        return Redirect(f"/events/{quote(event_id, safe='')}")
    may_see = context.may(Action.REVEAL) and context.is_revealed
    named: dict[str, Any] = {"shape": console.reads.ask(lambda c: _shape(c, found[0], with_values=may_see))}
    if may_see:
        named["traceback"] = in_thread(_traceback, context, found[0])
    more = {"traceback": None} | await panels(named)
    return Page("letter.j2", f"Dead letter of {event_id}", {"letters": found, "event_id": event_id, **more})


async def replay_form(context: Context) -> Answer:
    """Shows what a replay of the filter would take: how many letters, by cause, and in which order."""
    return await _form(context, "replay", "Replay dead letters")


async def discard_form(context: Context) -> Answer:
    """Shows what a discard of the filter would close."""
    return await _form(context, "discard", "Discard dead letters")


async def rehearsal(context: Context) -> Answer:
    """Shows what a replay of the filter would change, by the rules of this version on the rows as they are now."""
    console = context.console
    wanted = filter_of(_open_only(context.query), failed_before=console.clock(), limit=MOST_REHEARSED)

    # It reads Kafka for long, so it has a connection of its own, without a transaction, and there is one at a time.
    async with (
        asyncio.timeout(REHEARSAL_S),
        console.rehearsing,
        DeadLetterIndex.open(console.settings.database_url, application="billing-console") as index,
    ):
        letters = await index.find(wanted)
        found = await rehearse_letters(console.settings, console.config, RULES, index, letters)
    filters = {name: value for name, value in context.query.items() if name in _FILTERS}
    data = {"rehearsal": found, "filter": filters, "command": command_of("replay", context.query) + " --dry-run"}
    return Page("rehearsal.j2", "What a replay would do", data)


async def replay(context: Context) -> Answer:
    """Starts the replay as a job."""
    form = await _confirmed(context)
    rate = params.whole(form.fields, "per_second", default=100, least=1, most=10_000)
    path = await context.console.jobs.start(
        form.key,
        context.person,
        filter_of(form.fields),
        began_at=form.seen_at,
        per_second=float(rate),
        total=form.count,
        reason=form.reason,
        peer=context.peer,
    )
    return Redirect(path)


async def discard(context: Context) -> Answer:
    """Discards the letters that the form showed, with a reason."""
    form = await _confirmed(context)
    reason = form.reason
    if reason is None:
        raise Refused("A reason is needed: the next person will ask why these events were left out.")
    wanted = filter_of(form.fields, failed_before=form.seen_at, limit=min(form.count, MOST_AT_ONCE))
    console, person = context.console, context.person

    async def work() -> Mapping[str, Any]:
        async with DeadLetterIndex.open(console.settings.database_url, application="billing-console") as index:
            entry = context.entry("dead.discard", filter=filter_to_json(wanted), reason=reason)
            changed = await index.discard(wanted, f"{person.who}: {reason}", entry)
        return {"changed": changed, "skipped": max(0, form.count - changed), "undo": "billing dead replay --again"}

    return Redirect(
        await console.actions.perform(
            form.key,
            person,
            "discard dead letters",
            work,
            filter=filter_to_json(wanted),
            reason=reason,
            peer=context.peer,
        )
    )


def filter_of(query: Mapping[str, str], *, failed_before: datetime | None = None, limit: int = 100) -> LetterFilter:
    """Returns the filter of a URL or form: open letters unless `status` says otherwise."""
    until = params.time(query, "until")
    ends = [at for at in (until, failed_before) if at is not None]
    return LetterFilter(
        ids=tuple(one for one in params.text(query, "id").split(",") if one),
        types=tuple(one for one in params.text(query, "type").split(",") if one),
        customer=params.text(query, "customer") or None,
        error=params.text(query, "error") or None,
        frame=params.text(query, "frame") or None,
        stream=params.text(query, "stream") or None,
        since=params.time(query, "since"),
        until=min(ends) if ends else None,
        statuses=(params.text(query, "status") or "open",),
        limit=limit,
    )


def fragment_of(group: Mapping[str, Any]) -> str:
    """Returns the longest part of the group's message that all its letters share, or its error class."""
    parts = re.split(r"…|\bn\b", group["cause"])
    longest = max((part.strip() for part in parts), key=len, default="")
    return longest if len(longest) >= _LEAST_FRAGMENT else str(group["error_class"])


async def _form(context: Context, verb: str, title: str) -> Answer:
    now = context.console.clock()
    wanted = filter_of(_open_only(context.query), failed_before=now)
    ask = context.console.reads.ask
    count = await ask(lambda c: DeadLetterIndex(c).count(wanted))
    found = await panels(
        {
            "causes": ask(lambda c: DeadLetterIndex(c).summary(wanted)),
            "first": ask(lambda c: DeadLetterIndex(c).find(wanted)),
        }
    )
    data = {
        **found,
        "verb": verb,
        "filter": {name: value for name, value in context.query.items() if name in _FILTERS},
        # A replay is a job without a limit; a discard is one statement.
        **form_values(count if verb == "replay" else min(count, MOST_AT_ONCE), now),
        "left": 0 if verb == "replay" else max(0, count - MOST_AT_ONCE),
        "command": command_of(verb, context.query),
    }
    return Page("dead_form.j2", title, data)


async def _confirmed(context: Context) -> Confirmed:
    form = await confirmed(context, "letters")
    if any("@" in form.fields.get(name, "") for name in _FILTERS):
        raise Refused("The filter is kept with the action, so it must not contain an address: use the customer's id.")
    _open_only(form.fields)
    return form


def _open_only(query: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the filter. Raises Refused for letters that are not open: actions are for open ones."""
    if params.text(query, "status") not in ("", "open"):
        raise Refused(
            "Only open letters can be replayed or discarded here: `billing dead replay --again` takes others."
        )
    return query


_FILTERS = frozenset({"id", "type", "customer", "error", "frame", "stream", "since", "until", "status"})


def command_of(verb: str, query: Mapping[str, str]) -> str:
    options = {name: value for name, value in query.items() if name in _FILTERS and name != "status"}
    return command(f"dead {verb}", **options)


async def _shape(connection: AsyncConnection, letter: IndexedLetter, *, with_values: bool) -> dict[str, Any] | None:
    """Returns how the event's structure differs from the newest applied event of its type and API version.

    `failing` are the places that the error names and that one of the events has. Each has this event's value if the
    person may see that; the other event's is mostly of another customer, so that it is not shown. `is_explained`: at
    one of them the kinds of values differ.
    """
    dead_one = await row(
        connection,
        "SELECT type, api_version, payload FROM billing.events WHERE event_id = :id",
        {"id": letter.event_id},
    )
    if dead_one is None or dead_one["payload"] is None:
        return None
    good = await samples.newest_applied(connection, dead_one["type"], dead_one["api_version"])
    if good is None:
        return None
    dead_payload, good_payload = dead_one["payload"], good["payload"]
    found = (compared_at(place, dead_payload, good_payload) for place in failing_places(letter.message))
    failing = [one for one in found if one is not None]
    return {
        "good": good["event_id"],
        "failing": [
            {**asdict(one), "value": _short(values_at(dead_payload, one.path)) if with_values else None}
            for one in failing
        ],
        "is_explained": any(one.dead != one.good for one in failing),
        "differences": [
            asdict(one)
            for one in differences(dead_payload, good_payload)
            if not any(is_same_place(one.path, place.path) for place in failing)
        ],
    }


def _short(values: list[Any]) -> str:
    """Returns the first values as JSON, cut to what fits a cell, or `missing`. Integers keep every digit."""
    text = ", ".join(json.dumps(one, ensure_ascii=False) for one in values[:3]) or "missing"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _traceback(context: Context, letter: IndexedLetter) -> str | None:
    settings = context.console.settings
    with RecordLookup(settings.kafka, settings.dead_topic) as lookup:
        message = read_letter(lookup, letter)
    return decode_headers(headers_of(message)).get(_TRACEBACK) if message is not None else None


ROUTES = [
    get("/dead", page),
    get("/dead/letters/{event_id}", letter),
    get("/dead/replay", replay_form, Action.REPLAY),
    get("/dead/rehearsal", rehearsal, Action.REPLAY),
    post("/dead/replay", replay, Action.REPLAY),
    get("/dead/discard", discard_form, Action.DISCARD),
    post("/dead/discard", discard, Action.DISCARD),
]
