"""The pages on real rows: lists, stories, masking, exact numbers, and panels that fail alone."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from console.access import Action
from console.app import ROUTES
from console.lag import Lag
from eventlog import client
from eventlog.lookup import RecordLookup
from schemas.console_settings import Role
from schemas.figures import MovementKind
from schemas.known import Known
from schemas.settings import Config, Settings
from schemas.state import Customer
from schemas.timing import utc_now
from schemas.version import Version
from sinks.email.samples import SAMPLES
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import queries
from sinks.postgres.lists import events, outboxes
from sinks.postgres.lists.events import EventFilter
from sinks.postgres.pool import reading
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.consolekit import Browser, console_settings, serving
from tests.kits.replaykit import ReplayKit
from tests.kits.storekit import ask, email_row, known, ledger_row, write
from tests.waiting import eventually

_FIRST = Version("1")
EXACT = 9_007_199_254_740_993
JANE = Customer(account="", customer_id="cus_1", email="jane@example.com", name="Jane Doe", profile_version=_FIRST)


async def _filled(store: Store) -> None:
    now = utc_now()
    rows = [
        ledger_row(f"evt_{at:03}", applied_at=now - timedelta(seconds=at), received_at=now - timedelta(seconds=at + 1))
        for at in range(120)
    ]
    big = orjson.dumps({"id": "evt_big", "data": {"object": {"id": "sub_1", "amount": EXACT}}}).decode()
    rows.append(ledger_row("evt_big", applied_at=now, payload=big, type="invoice.paid"))
    mail = email_row("receipt::in_1", "evt_big", template="payment-receipt", recipient="jane@example.com")
    await write(store, Flush(ledger=rows, known=known(JANE), outbox=[mail]))


async def test_the_list_pages_by_keyset_and_filters(anyone: Browser, store: Store) -> None:
    await _filled(store)
    viewer = await anyone.signed_in(Role.VIEWER)
    seen: list[str] = []
    path = "/events"
    while path:
        page = await viewer.json(path)
        seen += [event["event_id"] for event in page["events"]]
        path = f"/events?before={page['next'].replace('+', '%2B')}" if page["next"] else ""
    assert len(seen) == len(set(seen)) == 121
    found = await viewer.json("/events?type=invoice.*")
    assert [event["event_id"] for event in found["events"]] == ["evt_big"]
    assert (await viewer.json("/events?customer=cus_1&outcome=dead"))["events"] == []
    assert (await viewer.get("/events?since=yesterday")).status == 400


async def test_a_search_that_stops_says_from_where_to_go_on(database: SecretStr, store: Store) -> None:
    await _filled(store)
    wanted = EventFilter(type="nothing.*")
    async with reading(database) as connection:
        first = await events.listed(connection, wanted, look_at=100)
        assert first.is_cut
        assert first.next is not None
        second = await events.listed(connection, EventFilter(type="nothing.*", before=first.next), look_at=100)
    assert not second.is_cut
    assert second.next is None


async def test_an_archived_payload_is_shown_once_revealed(
    anyone: Browser, store: Store, database: SecretStr, tmp_path: Path
) -> None:
    await _filled(store)
    payload = orjson.dumps({"id": "evt_big", "data": {"object": {"id": "sub_1", "amount": EXACT}}}).decode()
    folder = tmp_path / "payloads"
    anyone.console.settings = anyone.console.settings.model_copy(update={"payloads_url": str(folder)})
    (kept,) = await PayloadArchive(str(folder)).keep("db", utc_now().date(), [("evt_big", payload)])
    pruned = "UPDATE billing.events SET payload = NULL, payload_pruned_at = now(), payload_key = $1, payload_place = $2"
    await ask(database, f"{pruned} WHERE event_id = 'evt_big'", kept.key, kept.place)
    support = await anyone.signed_in(Role.SUPPORT)
    assert str(EXACT) not in await support.page("/events/evt_big")
    assert (await support.post("/reveal", {"page": "/events/evt_big"})).status == 303
    assert str(EXACT) in await support.page("/events/evt_big")
    folder.rename(tmp_path / "moved")
    assert "is in the archive and cannot be read now" in await support.page("/events/evt_big")


async def test_a_payload_keeps_every_digit_and_is_hidden_until_it_is_revealed(
    anyone: Browser, store: Store, database: SecretStr
) -> None:
    await _filled(store)
    viewer, support = await anyone.signed_in(Role.VIEWER), await anyone.signed_in(Role.SUPPORT)
    for person in (viewer, support):
        assert (await person.json("/events/evt_big"))["payload"] is None
        assert str(EXACT) not in await person.page("/events/evt_big")
    assert (await viewer.post("/reveal", {"page": "/events/evt_big"})).status == 403
    assert (await support.post("/reveal", {"page": "/events/evt_big"})).status == 303
    assert str(EXACT) in (await support.json("/events/evt_big"))["payload"]
    assert str(EXACT) in await support.page("/events/evt_big")
    assert (await viewer.json("/events/evt_big"))["payload"] is None
    found = await ask(database, "SELECT who || ' ' || target FROM billing.audit_log WHERE action = 'console.reveal'")
    assert found == "support (link) /events/evt_big"


async def test_personal_data_is_masked_on_every_page_and_in_json(anyone: Browser, store: Store) -> None:
    await _filled(store)
    admin = await anyone.signed_in(Role.ADMIN)
    parts = {
        "event_id": "evt_big",
        "customer_id": "cus_1",
        "name": "emails",
        "key": "receipt%3A%3Ain_1",
        "kind": "audit",
    }
    for route in ROUTES:
        if route.method != "GET" or route.path in ("/live", "/sign-in") or route.action is Action.LOAD_ASSET:
            continue
        for accept in ("text/html", "application/json"):
            text = await (await admin.get(route.path.format(**parts), Accept=accept)).text()
            assert "jane@example.com" not in text, route.path
            assert "Jane Doe" not in text or "/templates/" in route.path, route.path
    await admin.post("/reveal", {"page": "/customers/cus_1"})
    assert "jane@example.com" in await admin.page("/customers/cus_1")


async def test_an_erased_customer_shows_only_that(anyone: Browser, store: Store) -> None:
    erased = Customer(account="", customer_id="cus_1", erased_at=utc_now(), profile_version=_FIRST)
    await write(store, Flush(ledger=[ledger_row("evt_1", payload=None)], known=known(erased)))
    support = await anyone.signed_in(Role.SUPPORT)
    found = await support.json("/customers/cus_1")
    assert found["is_erased"]
    assert set(found["customer"]) == {"customer_id", "erased_at"}
    assert "was erased" in await support.page("/customers/cus_1")


async def test_one_hit_opens_at_once(anyone: Browser, store: Store, settings: Settings) -> None:
    await _filled(store)
    viewer = await anyone.signed_in(Role.VIEWER)
    hits = {
        "evt_007": "/events/evt_007",
        "cus_1": "/customers/cus_1",
        "JANE@example.com": "/customers/cus_1",
        "jane d": "/customers/cus_1",
        "receipt::in_1": "/mails/receipt%3A%3Ain_1",
    }
    for query, page in hits.items():
        answer = await viewer.get(f"/search?q={query.replace(' ', '+')}")
        assert (answer.status, answer.headers.get("Location")) == (303, page), query
    assert "Nothing has" in await viewer.page("/search?q=sub_none")
    assert (await viewer.json("/search?q=%25"))["hits"] == []


async def test_a_mail_is_shown_in_a_frame_that_may_do_nothing(anyone: Browser, store: Store) -> None:
    data = {**SAMPLES["payment-receipt"], "name": "<script>alert(1)</script>"}
    mail = email_row("receipt::in_1", template="payment-receipt", recipient="jane@example.com", data=data)
    await write(store, Flush(ledger=[ledger_row("evt_1")], known=known(JANE), outbox=[mail]))
    support = await anyone.signed_in(Role.SUPPORT)
    assert (await support.get("/mails/receipt%3A%3Ain_1/preview")).status == 404
    await support.post("/reveal", {"page": "/mails/receipt%3A%3Ain_1"})
    page = await support.page("/mails/receipt%3A%3Ain_1")
    assert re.search(r"<iframe[^>]* sandbox [^>]*>", page)
    answer = await support.get("/mails/receipt%3A%3Ain_1/preview")
    text = await answer.text()
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script>alert" not in text
    assert "49.00" in text


async def test_each_page_answers_while_kafka_or_postgres_is_away(
    settings: Settings, database: SecretStr, postgres_url: str
) -> None:
    async with serving(settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})) as anyone:
        admin = await anyone.signed_in(Role.ADMIN)
        overview = await admin.json("/")
        assert "error" in overview["lag"]
        assert overview["letters"] == {"open": 0, "more": False, "groups": 0, "since": None}
    async with serving(settings) as anyone:
        admin = await anyone.signed_in(Role.ADMIN)
        await admin.page("/events")  # the session is known from here on
        name = database.get_secret_value().rpartition("/")[2]
        server = await asyncpg.connect(postgres_url, timeout=30)
        try:
            await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            for path in ("/", "/events", "/dead", "/mails", "/timers", "/checks", "/dunning", "/revenue", "/audit"):
                page = await admin.page(path)
                assert "No answer" in page, path
                assert "Runbook" in page, path
            assert (await anyone.get("/sign-in?token=x")).status == 503
        finally:
            await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await server.close()


async def test_the_pill_counts_each_new_event_once(anyone: Browser, store: Store) -> None:
    live = anyone.console.live
    await _filled(store)
    await live.look(is_first=True)
    now = utc_now()
    late = [ledger_row(f"evt_new_{at}", applied_at=now - timedelta(seconds=20)) for at in range(3)]  # committed late
    await write(store, Flush(ledger=late, known=Known(Config(), ())))
    await live.look()
    await live.look()
    assert live._count == 3


async def test_no_page_is_watched_no_query_is_made(anyone: Browser) -> None:
    viewer = await anyone.signed_in(Role.VIEWER)
    await viewer.page("/events")
    assert anyone.console.live.polls == 0
    answer = await viewer.get("/live")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert b"retry" in await answer.content.readline()
    assert anyone.console.live.watchers == 1
    answer.close()


def test_settings_never_show_a_secret(settings: Settings) -> None:
    from console.pages.record import settings_shown

    given = console_settings(
        SecretStr("postgresql://u:hunter2@127.0.0.1/x"), "k:1", "p", settings.state_dir,
        stripe_api_key=SecretStr("sk_test_hunter2"), smtp_url=SecretStr("smtps://u:hunter2@mail"),
    )  # fmt: skip
    shown = settings_shown(given)
    assert "hunter2" not in str(shown)
    assert {row["value"] for row in shown if row["name"] == "BILLING_STRIPE_API_KEY"} == {"set, hidden"}


async def test_a_reveal_opens_one_search_and_is_recorded_without_addresses(
    anyone: Browser, store: Store, database: SecretStr
) -> None:
    await _filled(store)
    support = await anyone.signed_in(Role.SUPPORT)
    assert "jane@example.com" not in await support.page("/mails?kind=payment-receipt")
    await support.post("/reveal", {"page": "/mails?kind=payment-receipt"})
    assert "jane@example.com" in await support.page("/mails?kind=payment-receipt")
    assert "jane@example.com" not in await support.page("/mails")
    await support.post("/reveal", {"page": "/search?q=jane%40example.com"})
    logged = "SELECT string_agg(target, ' ' ORDER BY entry_id) FROM billing.audit_log WHERE action = 'console.reveal'"
    first, second = str(await ask(database, logged)).split()
    assert first == "/mails?kind=payment-receipt"
    assert second.startswith("/search?q=")
    assert "jane" not in second


async def test_a_list_of_what_no_index_finds_goes_on_where_it_stopped(store: Store, database: SecretStr) -> None:
    mails = [email_row(f"m{at}", template="a" if at < 3 else "b", queued_at=utc_now()) for at in range(10)]
    mails = [replace(mail, queued_at=mail.queued_at + timedelta(seconds=at)) for at, mail in enumerate(mails)]
    await write(store, Flush(ledger=[ledger_row("evt_1")], known=known(), outbox=[*mails]))
    seen, before = [], None
    async with reading(database) as connection:
        for _ in range(6):
            found, before = await outboxes.entries(connection, "emails", kind="a", most=2, look_at=4, before=before)
            seen += [mail["email_key"] for mail in found]
            if before is None:
                break
    assert seen == ["m2", "m1", "m0"]
    assert before is None


async def test_a_customer_is_shown_at_a_past_moment_and_masked(anyone: Browser, store: Store) -> None:
    now = utc_now()
    changes = [
        {"table": "customers", "key": "cus_1", "did": "changed",
         "fields": {"name": ["Jane Roe", "Jane Doe"], "email": ["roe@example.com", "jane@example.com"]}}
    ]  # fmt: skip
    row = ledger_row("evt_1", applied_at=now - timedelta(minutes=5), changes=changes)
    await write(store, Flush(ledger=[row], known=known(JANE)))
    support = await anyone.signed_in(Role.SUPPORT)
    path = f"/customers/cus_1/past?at={(now - timedelta(hours=1)).isoformat().replace('+00:00', 'Z')}"
    assert "e@example.com" not in await support.page(path)
    await support.post("/reveal", {"page": path})
    page = await support.page(path)
    assert "roe@example.com" in page
    assert "Jane Roe" in page
    assert "jane@example.com" not in page
    for wrong in ("", "?at=2999-01-01", "?at=soon"):
        assert (await support.get(f"/customers/cus_1/past{wrong}")).status == 400
    assert (await support.get("/customers/cus_404/past?at=2026-01-01")).status == 404


async def test_a_past_state_needs_all_rows(anyone: Browser, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await _filled(store)
    viewer = await anyone.signed_in(Role.VIEWER)
    at = utc_now() - timedelta(hours=1)
    path = f"/customers/cus_1/past?at={at:%Y-%m-%dT%H:%M}"
    assert "cus_1" in await viewer.page(path)
    assert (await viewer.get(path.replace("cus_1", "cus_none"))).status == 404
    monkeypatch.setattr(queries, "MOST_OF_A_STATE", 0)
    answer = await viewer.get(path)
    assert answer.status == 400
    assert "over 0 customers" in await answer.text()


async def test_between_two_readings_of_the_lag_no_record_is_fetched(
    rig: ReplayKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RecordLookup] = []

    class Noted(RecordLookup):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("console.lag.RecordLookup", Noted)
    rig.send("evt_1")
    lag = Lag(rig.settings)
    try:
        found = await lag.read()
        assert [(one.records, one.seconds is not None) for one in found if one.records] == [(1, True)]
        assert [one.is_fetching for one in made] == [False]
    finally:
        await lag.close()


async def test_a_month_without_movements_is_shown_with_its_mrr(anyone: Browser, database: SecretStr) -> None:
    await ask(
        database,
        """INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day)
        SELECT '', true, 'cus_1', 'eur', at, 'pro', kind, amount, (at AT TIME ZONE 'UTC')::date
        FROM (VALUES ('new', 4900, 3), ('churn', -4900, 1)) AS v (kind, amount, ago),
             LATERAL (SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => ago))
                      AT TIME ZONE 'UTC' AS at) moment RETURNING 1""",
    )
    finance = await anyone.signed_in(Role.FINANCE)
    (series,) = (await finance.json("/revenue?months=12"))["series"]
    months = series["months"]
    assert [(month["net"], month["mrr"]) for month in months] == [(4900, 4900), (0, 4900), (-4900, 0), (0, 0)]
    assert months[-1]["month"] == f"{utc_now():%Y-%m}"
    assert len((await finance.json("/revenue?months=2"))["series"][0]["months"]) == 2
    page = await finance.page("/revenue?months=12")
    assert all(month["month"] in page for month in months)


async def test_movements_of_every_kind_are_shown(anyone: Browser, database: SecretStr) -> None:
    """Also the MRR of customers who left while they were paused, which no sum of movements has."""
    kinds = ", ".join(f"('{kind}', {at})" for at, kind in enumerate(MovementKind, 1))
    await ask(
        database,
        f"""INSERT INTO analytics.movements
            (account, livemode, owner, currency, at, plan, kind, amount, paused_lost, day)
        SELECT '', true, 'cus_' || number, 'eur', now(), 'pro', kind, number * 1100,
            CASE kind WHEN 'churn' THEN -7700 END, (now() AT TIME ZONE 'UTC')::date
        FROM (VALUES {kinds}) AS v (kind, number) RETURNING 1""",
    )
    finance = await anyone.signed_in(Role.FINANCE)
    (series,) = (await finance.json("/revenue"))["series"]
    found = series["months"][-1]
    assert {kind: found[kind] for kind in MovementKind} == {kind: 1100 * at for at, kind in enumerate(MovementKind, 1)}
    assert found["paused_churn"] == -7700
    page, listed = await finance.page("/revenue"), await finance.page(f"/revenue/movements?month={found['month']}")
    for at, kind in enumerate(MovementKind, 1):
        assert f"kind={kind}" in page
        assert all(f"{11 * at}.00" in each for each in (page, listed))
    assert all("77.00" in each for each in (page, listed))


async def test_the_reader_of_each_partition_is_named(rig: ReplayKit) -> None:
    rig.send("evt_1")
    lag, settings = Lag(rig.settings), rig.settings
    worker = client.consumer(settings.kafka, group=lag.group, properties={"group.instance.id": "worker-7"})
    try:
        assert {one.owner for one in await lag.read()} == {""}, "no one reads"
        worker.subscribe([settings.events_topic])

        async def is_assigned() -> bool:
            await asyncio.to_thread(worker.poll, 0.2)
            return bool(worker.assignment())

        await eventually(is_assigned, "the assignment")
        later = Lag(settings)  # what was read is kept for seconds
        assert {one.owner for one in await later.read()} == {"worker-7 (127.0.0.1)"}
        await later.close()
    finally:
        worker.close()
        await lag.close()
