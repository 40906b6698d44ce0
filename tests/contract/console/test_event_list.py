"""The list of events by customer and by object, and the search that is bounded."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import quote

import pytest

from schemas.console_settings import Role
from schemas.timing import utc_now
from sinks.postgres import queries
from sinks.postgres.lists import PAGE, events
from sinks.postgres.lists.events import EventFilter
from sinks.postgres.pool import reading
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.consolekit import Browser
from tests.kits.storekit import known, ledger_row, write


@pytest.mark.parametrize("undated", [2, PAGE, 2 * PAGE + 1])
async def test_a_customers_list_is_in_the_order_of_stripes_times(anyone: Browser, store: Store, undated: int) -> None:
    """Replayed or late ones are at their place. Those whose time is not known are there, too, each once."""
    now = utc_now()
    rows = [
        ledger_row(f"evt_{at:03}", created=now - timedelta(days=at), applied_at=now - timedelta(days=400 - at))
        for at in range(120)
    ]
    rows += [ledger_row(f"evt_x{at:03}", created=None, applied_at=now) for at in range(undated)]
    rows += [ledger_row("evt_other", customer_id="cus_2", created=now, applied_at=now)]
    await write(store, Flush(ledger=rows, known=known()))
    viewer = await anyone.signed_in(Role.VIEWER)
    seen: list[str] = []
    path = "/events?customer=cus_1"
    while path:
        page = await viewer.json(path)
        seen += [event["event_id"] for event in page["events"]]
        path = f"/events?customer=cus_1&before={quote(page['next'])}" if page["next"] else ""
    assert seen == [*(f"evt_x{at:03}" for at in reversed(range(undated))), *(f"evt_{at:03}" for at in range(120))]


async def test_a_search_among_one_customers_events_is_bounded(anyone: Browser, store: Store) -> None:
    now = utc_now()
    rows = [ledger_row(f"evt_{at:03}", created=now - timedelta(days=at), applied_at=now) for at in range(30)]
    await write(store, Flush(ledger=rows, known=known()))
    wanted = EventFilter(customer="cus_1", type="no.such")
    async with reading(anyone.console.settings.database_url) as connection:
        first = await events.listed(connection, wanted, look_at=20)
        assert (first.events, first.is_cut, first.looked_at) == ([], True, 20)
        assert first.next is not None
        assert first.next.event_id == "evt_019"
        rest = EventFilter(customer="cus_1", type="no.such", before=first.next)
        assert not (await events.listed(connection, rest, look_at=20)).is_cut


async def test_events_of_one_object_are_found_among_its_customers(anyone: Browser, store: Store) -> None:
    def payload(name: str) -> str:
        return json.dumps({"id": "evt", "data": {"object": {"id": name}}})

    now = utc_now()
    rows = [
        ledger_row(f"evt_{at}", created=now - timedelta(hours=at), applied_at=now, payload=payload(name))
        for at, name in enumerate(("in_1", "in_2", "in_1", "sub_1"))
    ]
    rows += [ledger_row("evt_pruned", created=now, applied_at=now, payload=None)]
    await write(store, Flush(ledger=rows, known=known()))
    viewer = await anyone.signed_in(Role.VIEWER)
    link = "/events?customer=cus_1&account=&object=in_1&since=all"
    assert link.replace("&", "&amp;") in await viewer.page("/events/evt_0")
    found = await viewer.json(link)
    assert [event["event_id"] for event in found["events"]] == ["evt_0", "evt_2"]
    assert "no longer stored" in await viewer.page(link)
    assert (await viewer.get("/events?object=in_1")).status == 400


async def test_waiting_events_are_found_however_old(anyone: Browser, store: Store) -> None:
    now = utc_now()
    rows = [ledger_row(f"evt_{at}", applied_at=now - timedelta(seconds=at)) for at in range(30)]
    rows += [ledger_row("evt_waits", outcome="waiting", applied_at=now - timedelta(days=300))]
    await write(store, Flush(ledger=rows, known=known()))
    async with reading(anyone.console.settings.database_url) as connection:
        found = await events.listed(connection, EventFilter(outcome="waiting"), look_at=10)
    assert ([event["event_id"] for event in found.events], found.is_cut) == (["evt_waits"], False)


async def test_events_without_a_time_do_not_push_a_customers_others_out(anyone: Browser, store: Store) -> None:
    """They are often dead letters. They fill the places that are left."""
    now = utc_now()
    rows = [ledger_row(f"evt_{at}", created=now - timedelta(days=at), applied_at=now) for at in range(3)]
    rows += [ledger_row(f"evt_x{at}", created=None, applied_at=now) for at in range(4)]
    await write(store, Flush(ledger=rows, known=known()))
    async with reading(anyone.console.settings.database_url) as connection:
        for limit, dated in ((2, 2), (5, 3), (20, 3)):
            found = await queries.customer_overview(connection, "", "cus_1", limit=limit)
            assert found is not None
            seen = [event["event_id"] for event in found["events"]]
            assert seen[:dated] == [f"evt_{at}" for at in range(dated)]
            assert len(seen) == min(limit, 7)
            assert all(name.startswith("evt_x") for name in seen[dated:])
            assert found["totals"]["events"] == 7
