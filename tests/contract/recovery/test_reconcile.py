"""Events that Stripe lists but that never arrived are appended to the log once, despite retries, crashes and races."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from eventlog.backlog import BacklogTooLong, ids_on_the_way
from eventlog.entry import Entry
from local.stripe.builder import StripeEvents
from recovery.reconcile.events import AnotherIsAtIt, ReconcileRequest
from recovery.stripe_lists import connected_accounts
from recovery.window import DEFAULT, OVERLAP
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from tests.kits.reconcilekit import NOW, ReconcileKit, event, events, open_kit
from tests.kits.storekit import ask
from tests.kits.stripelist import KEY
from tests.waiting import eventually


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


async def test_missing_events_are_appended_to_the_log_as_stripe_wrote_them(desk: ReconcileKit) -> None:
    """Ordered by time within each customer, under the customer's key, with their source in the headers."""
    listed = events(2500)
    desk.stripe.add_events(*listed)
    arrived = [one["id"] for at, one in enumerate(listed) if at % 5]
    await desk.applied(*arrived)

    (report,) = await desk.run()

    missing = [one for at, one in enumerate(listed) if at % 5 == 0]
    assert (report.listed, report.missing, report.fed, report.trouble) == (2500, 500, 500, None)
    assert report.by_type == {"customer.updated": 500}
    assert report.by_age.keys() == {"under an hour", "1 to 6 hours", "6 to 24 hours"}
    assert report.oldest_missing == datetime.fromtimestamp(missing[0]["created"], UTC)
    records = await asyncio.to_thread(desk.records)
    assert sorted(record.headers["event_id"] for record in records) == sorted(one["id"] for one in missing)
    for customer in {one["data"]["object"]["id"] for one in missing}:
        theirs = [record for record in records if record.key == customer.encode()]
        assert [record.headers["event_id"] for record in theirs] == [
            one["id"] for one in missing if one["data"]["object"]["id"] == customer
        ]
    record = records[0]
    assert record.value is not None
    assert b'\n          "object": "customer",' in record.value.replace(b"\r", b"")  # indented as in the list
    assert record.headers["source"] == "reconcile"
    assert record.headers["api_version"] == orjson.loads(record.value)["api_version"]
    assert await desk.process() == {"applied": 2500}
    assert len(desk.stripe.requests) < 60  # a page has 100 events, and time slices adapt to the number of events

    (report,) = await desk.run()
    assert (report.missing, report.fed) == (0, 0)


async def test_a_dry_run_appends_nothing_and_stores_nothing(desk: ReconcileKit) -> None:
    desk.stripe.add_events(*events(30))
    (report,) = await desk.run(dry_run=True)
    assert (report.missing, report.fed) == (30, 0)
    assert await desk.ids() == []
    assert await ask(desk.settings.database_url, "SELECT count(*) FROM billing.reconciliations") == 0


async def test_recent_events_and_events_on_the_log_are_not_missing(desk: ReconcileKit) -> None:
    """A backlog is not a loss: events on the log that are not applied yet are counted separately, not appended."""
    desk.stripe.add_events(
        event(1, ago=timedelta(minutes=4)), event(2, ago=timedelta(hours=1)), event(3, ago=timedelta(hours=1))
    )
    waiting = event(2, ago=timedelta(hours=1))
    headers = RecordHeaders("evt_00002", waiting["type"], Source.STRIPE, "", False, "", "default", NOW)
    await desk.log.append([Entry(ordering_key(waiting).encode(), orjson.dumps(waiting), headers.encode())])

    (report,) = await desk.run()

    assert (report.listed, report.on_the_way, report.missing) == (2, 1, 1)
    assert sorted(await desk.ids()) == ["evt_00002", "evt_00003"]
    with pytest.raises(BacklogTooLong, match="2 records behind"):
        ids_on_the_way(desk.settings.kafka, "no-such-group", desk.settings.events_topic, most=1)


async def test_errors_are_retried_and_repeated_events_count_once(desk: ReconcileKit) -> None:
    """429 for as long as Retry-After demands; 500, 502, a broken connection and no answer for a while."""
    desk.stripe.add_events(*events(700))
    desk.stripe.repeats = True
    desk.stripe.faults.extend(["ok", "429", "500", "drop", "ok", "html", "500", "ok", "hang", "ok"])
    wired = await desk.reconciler(total_s=0.5, most=400)
    try:
        (report,) = await wired.run(ReconcileRequest(), [""])
    finally:
        wired.runs.close()
    assert (report.missing, report.fed, report.trouble) == (700, 700, None)
    assert Counter(await desk.ids()) == Counter(f"evt_{number:05}" for number in range(700))
    refused = 1
    assert desk.stripe.at[refused + 1] - desk.stripe.at[refused] >= 1.0  # Retry-After
    assert KEY not in str(report)


async def test_a_lasting_error_ends_the_run_and_the_next_one_resumes_it(desk: ReconcileKit) -> None:
    desk.stripe.add_events(*events(900))
    wired = await desk.reconciler(most=200)
    desk.stripe.faults.extend(["ok"] * 12 + ["500"] * 4)
    try:
        (report,) = await wired.run(ReconcileRequest(), [""])
    finally:
        wired.runs.close()
    assert report.trouble is not None
    assert "HTTP 500" in report.trouble
    assert 0 < report.fed < 900
    query = "SELECT last_error FROM billing.reconciliations WHERE ended_at IS NULL"
    assert await ask(desk.settings.database_url, query) == report.trouble

    (rest,) = await desk.run()
    assert rest.resumed_at is not None
    assert (rest.fed + report.fed, rest.trouble) == (900, None)
    assert Counter(await desk.ids()) == Counter(f"evt_{number:05}" for number in range(900))
    assert await ask(desk.settings.database_url, "SELECT count(*) FROM billing.reconciliations") == 1


async def test_a_killed_run_is_resumed_where_it_was(desk: ReconcileKit, tmp_path: Path) -> None:
    """kill -9 in the middle of the list; the next run appends the rest, and every event is on the log once."""
    listed = events(3000)
    desk.stripe.add_events(*listed)
    desk.stripe.hang_at = 25
    with desk.running(tmp_path, "reconcile") as first:
        await eventually(lambda: len(desk.stripe.requests) >= 25, "25 requests", process=first)
        first.kill()
        await asyncio.to_thread(first.wait, 30)
    sent = await desk.ids()
    assert 0 < len(sent) < 3000
    desk.stripe.hang_at = None

    second = await desk.ask_billing(tmp_path, "reconcile", "--json")

    assert second.exit_code == 0, second.stderr
    (report,) = orjson.loads(second.stdout.splitlines()[-1])
    assert report["resumed_at"] is not None
    assert report["listed"] < 3000
    assert Counter(await desk.ids()) == Counter(one["id"] for one in listed)
    assert KEY not in second.stdout + second.stderr


async def test_two_at_once_do_it_once(desk: ReconcileKit) -> None:
    desk.stripe.add_events(*events(500))
    desk.stripe.slow_s = 0.02
    one, other = await desk.reconciler(), await desk.reconciler()
    ended = await asyncio.gather(
        *(wired.run(ReconcileRequest(), [""]) for wired in (one, other)), return_exceptions=True
    )
    one.runs.close()
    other.runs.close()
    assert Counter(type(end).__name__ for end in ended) == {"list": 1, "AnotherIsAtIt": 1}
    assert len(await desk.ids()) == 500
    assert any(isinstance(end, AnotherIsAtIt) for end in ended)


async def test_each_connected_account_is_asked_in_its_name(desk: ReconcileKit) -> None:
    """The list lacks the account's name; the event on the log has it. A disconnected account stops no other."""
    desk.stripe.accounts = ["acct_1", "acct_2"]
    desk.stripe.add_events(event(1, ago=timedelta(hours=1)))
    desk.stripe.add_events(event(2, ago=timedelta(hours=2)), account="acct_1")
    desk.stripe.add_events(event(3, ago=timedelta(hours=3), account="acct_2"), account="acct_2")

    wired = await desk.reconciler()
    accounts = await connected_accounts(wired.lists)
    reports = await wired.run(ReconcileRequest(), ["", *accounts, "acct_gone"])
    wired.runs.close()

    assert accounts == ["acct_2", "acct_1"]
    assert [report.fed for report in reports] == [1, 1, 1, 0]
    assert reports[-1].trouble is not None
    assert "account_invalid" in reports[-1].trouble
    found = {record.headers["event_id"]: record for record in await asyncio.to_thread(desk.records)}
    for event_id, account in (("evt_00001", None), ("evt_00002", "acct_1"), ("evt_00003", "acct_2")):
        record = found[event_id]
        assert orjson.loads(record.value or b"").get("account") == account
        assert record.headers["account"] == (account or "")
        assert record.key == (f"{account}/cus_1" if account else "cus_1").encode()
    assert await desk.process() == {"applied": 3}


async def test_only_the_selected_types_or_undelivered_events(desk: ReconcileKit) -> None:
    mine = StripeEvents().event("invoice.finalized", StripeEvents().invoice(), int(NOW.timestamp()) - 4000, id_="evt_i")
    desk.stripe.add_events(*events(3), mine)
    desk.stripe.undelivered = {"evt_00001"}
    assert [report.fed for report in await desk.run(types=("invoice.finalized",))] == [1]
    assert await desk.ids() == ["evt_i"]
    assert [report.fed for report in await desk.run(undelivered_only=True)] == [1]
    assert sorted(await desk.ids()) == ["evt_00001", "evt_i"]
    (report,) = await desk.run()
    assert report.resumed_at is None
    assert report.fed == 2


async def test_a_key_of_the_other_mode_is_refused(desk: ReconcileKit, tmp_path: Path) -> None:
    """An event of the other mode is refused too, whatever mode the key has."""
    live = await desk.ask_billing(tmp_path, "reconcile", BILLING_STRIPE_API_KEY=KEY.replace("test", "live"))
    assert live.exit_code == 2
    assert "is a key of live mode" in live.stderr
    assert not desk.stripe.requests

    desk.stripe.add_events(event(1, ago=timedelta(hours=1), livemode=True))
    (report,) = await desk.run()
    assert report.trouble is not None
    assert "not in test mode" in report.trouble
    assert await desk.ids() == []


async def test_the_command_reports_what_is_missing(desk: ReconcileKit, tmp_path: Path) -> None:
    desk.stripe.add_events(*events(5))
    dry = await desk.ask_billing(tmp_path, "reconcile", "--dry-run", "--since", "1d")
    assert dry.exit_code == 1
    assert "5 listed, 0 in flight, 5 missing, nothing appended" in dry.stdout
    assert "customer.updated" in dry.stdout
    wrong = await desk.ask_billing(tmp_path, "reconcile", "--since", "yesterday")
    assert wrong.exit_code == 2


async def test_a_run_that_leaves_a_gap_settles_nothing(desk: ReconcileKit) -> None:
    """A run over less than what is due is no run until now: the next one begins where the last complete one ended."""
    await desk.run(since=NOW - timedelta(days=7), until=NOW - timedelta(days=5))
    before = [event(1, ago=timedelta(days=4)), event(2, ago=timedelta(days=2))]
    desk.stripe.add_events(*before, event(3, ago=timedelta(hours=2)))
    (narrow,) = await desk.run(since=NOW - timedelta(days=1))
    assert narrow.fed == 1
    await desk.run(since=NOW - timedelta(hours=3), types=("customer.updated",))
    (rest,) = await desk.run()
    assert rest.window_from == NOW - timedelta(days=5) - OVERLAP
    assert (rest.fed, rest.on_the_way) == (2, 1)
    (joined,) = await desk.run(since=NOW - timedelta(hours=1))
    assert joined.missing == 0
    (following,) = await desk.run()
    assert following.window_from == NOW - DEFAULT
    scopes = "SELECT string_agg(scope, ',' ORDER BY run_id) FROM billing.reconciliations"
    assert await ask(desk.settings.database_url, scopes) == ",since,customer.updated since,,,"


async def test_a_run_after_a_gap_in_the_log_joins_on_to_the_last_one(desk: ReconcileKit) -> None:
    await desk.run(since=NOW - timedelta(days=7), until=NOW - timedelta(days=5))
    (report,) = await desk.run(since=NOW - timedelta(days=2), joins_on=True)
    assert report.window_from == NOW - timedelta(days=5)
