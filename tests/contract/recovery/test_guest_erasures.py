"""`billing erase` of guests, who have no customer: once, and again in a database that lacks it (B6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from local.stripe.builder import Json
from local.stripe.payments import charge
from recovery.privacy.erasing import Eraser
from schemas.erasure import guest_erasure_event
from schemas.ordering import guest_key
from schemas.record import Source
from schemas.timing import utc_now
from sinks.postgres.ownership import guest_data
from tests.kits.privacykit import AT, GUEST, MAKE, Office, counts_of, purchase
from tests.kits.reconcilekit import open_kit
from tests.waiting import eventually


@pytest.fixture
async def office(kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        yield Office(desk, tmp_path)


async def test_B6_a_guest_is_erased_by_the_address_in_another_case(office: Office) -> None:
    other = purchase("cs_2", intent="pi_2", of="ch_2", email="other@example.com", name="Another")
    await office.send(*purchase("cs_1", intent="pi_1", of="ch_1", email=GUEST), *other)
    keys = {record.key for record in office.desk.records()}
    assert not any(b"@" in (key or b"") for key in keys), "no address is a key on the topic"
    money = await office.rows("SELECT payment_id, amount, status FROM billing.payments ORDER BY 1")
    assert "events" in await office.found("kim.guest")
    dry = await office.ask("erase", GUEST.lower(), "--dry-run")

    done = await office.ask("erase", GUEST.lower(), "--reason", "request 9", "--by", "sam")

    assert counts_of(done) == counts_of(dry)
    assert counts_of(dry)["events"] == 3
    assert await office.found("kim.guest", "kim guest") == set()
    kept = await office.rows(
        "SELECT count(*) AS n FROM billing.events WHERE payload IS NOT NULL AND event_id LIKE 'evt%'"
    )
    assert kept == [{"n": len(other)}]
    assert await office.rows("SELECT payment_id, amount, status FROM billing.payments ORDER BY 1") == money
    (noted,) = await office.rows("SELECT who, count, reason FROM billing.audit_log")
    assert noted == {
        "who": "sam",
        "count": sum(counts_of(dry).values()),
        "reason": f"request 9 ({guest_key(GUEST)})",
    }

    late = charge(MAKE, "ch_1", customer=None, invoice=None, payment_intent="pi_1", refunded=2900, receipt_email=GUEST)
    await office.send(MAKE.event("charge.refunded", late, AT + 100))
    assert await office.found("kim.guest") == set()
    await office.send(*purchase("cs_3", intent="pi_3", of="ch_3", email=GUEST, at=AT + 200))
    assert "events" in await office.found("kim.guest"), "a new purchase is kept"


async def test_B6_a_restored_database_erases_the_guest_again_but_not_what_came_later(office: Office) -> None:
    """The restore is the state before the erasure: what the erasure changed, and its record, are put back.

    Stripe's clock counts for nothing: the first purchase is dated after the erasure, and the last one before it.
    """
    ahead = int(utc_now().timestamp()) + 3600
    await office.send(*purchase("cs_1", intent="pi_1", of="ch_1", email=GUEST, at=ahead))
    tables = ("events", "event_objects")
    copies = {name: await office.rows(f"SELECT * FROM billing.{name}") for name in tables}
    done = await office.ask("erase", GUEST, "--reason", "request 9", "--by", "sam")
    compared = "SELECT event_id, account, customer_id, organization_id, asked_at FROM billing.erasures"
    first = await office.rows(compared)
    late = charge(MAKE, "ch_1", customer=None, invoice=None, payment_intent="pi_1", refunded=2900, receipt_email=GUEST)
    await office.send(MAKE.event("charge.refunded", late, ahead + 100))
    await office.send(*purchase("cs_2", intent="pi_2", of="ch_2", email="later@example.com", name="Later"))
    assert await office.found("kim.guest") == set()

    for name in ("erasures", "object_owners", "audit_log", *tables, "positions"):
        await office.rows(f"DELETE FROM billing.{name}")
    for name, rows in copies.items():
        async with office.session() as connection:
            await connection.copy_records_to_table(
                name, schema_name="billing", columns=list(rows[0]), records=[tuple(row.values()) for row in rows]
            )
    office.processed.clear()
    await office.work()  # the worker reads the log again
    assert "events" in await office.found("kim.guest")
    again = purchase("cs_3", intent="pi_3", of="ch_3", email=GUEST, at=AT)
    await office.send(*again)
    later = {event["id"] for event in again}
    dry = await office.ask("erase", "--repeat-guests", "--dry-run")
    assert counts_of(dry)["events"] == 4  # three of the purchase, and its refund

    repeated = await office.ask("erase", "--repeat-guests", "--by", "kim")

    assert counts_of(repeated) == counts_of(dry)
    assert repeated["erasures"][0]["event"] == done["erasures"][0]["event"]
    left = await office.rows("SELECT event_id FROM billing.events WHERE payload::text ~* 'kim.guest'")
    assert {row["event_id"] for row in left} == later, "a purchase after the erasure is kept"
    (noted,) = await office.rows("SELECT who, reason FROM billing.audit_log")
    assert noted == {"who": "kim", "reason": f"repeated, first by sam: request 9 ({guest_key(GUEST)})"}
    assert await office.rows(compared) == first, "a rebuilt database does not differ"
    assert (await office.ask("erase", "--repeat-guests"))["erasures"] == []
    await office.ask("erase", GUEST, "--repeat-guests", code=2)
    await office.ask("erase", code=2)


@pytest.mark.parametrize(
    ("type_", "o"),
    [
        ("source.chargeable", {"object": "source", "id": "src_1", "owner": {"email": GUEST, "name": "Kim Guest"}}),
        (
            "identity.verification_session.verified",
            {
                "object": "identity.verification_session",
                "id": "vs_1",
                "provided_details": {"email": GUEST, "phone": "1"},
                "metadata": {"name": "Kim Guest"},
            },
        ),
        ("transfer.created", {"object": "transfer", "id": "tr_1", "source_transaction": "ch_1", "description": GUEST}),
    ],
    ids=["source", "identity", "transfer"],
)
async def test_B6_a_guest_is_erased_from_events_that_no_rule_applies(office: Office, type_: str, o: Json) -> None:
    await office.send(*purchase("cs_1", intent="pi_1", of="ch_1", email=GUEST), MAKE.event(type_, o, AT + 5))
    await office.ask("erase", GUEST, "--reason", "request 9", "--by", "sam")
    assert await office.found("kim.guest", "kim guest") == set()


async def lacking(office: Office, *accounts: str) -> None:
    """Stores a purchase of the guest in each account, and the record of an erasure that was not carried out here."""
    for at, account in enumerate(accounts):
        named: Json = {"account": account} if account else {}
        bought = purchase(f"cs_{at}", intent=f"pi_{at}", of=f"ch_{at}", email=GUEST)
        await office.append(*(event | named for event in bought))
        noted = guest_erasure_event(
            account, guest_key(GUEST), by="sam", reason="request 9", at=utc_now(), livemode=False
        )
        await office.append(noted, source=Source.OPERATOR)


async def test_B6_erasures_of_guests_are_repeated_in_one_account_and_options_without_meaning_refused(
    office: Office,
) -> None:
    await lacking(office, "", "acct_1")
    for useless in (["--all"], ["--even-if-running"], ["--reason", "x"], ["--wait", "5"]):
        assert useless[0] in await office.ask("erase", "--repeat-guests", *useless, code=2)
    assert len((await office.ask("erase", "--repeat-guests", "--dry-run"))["erasures"]) == 2

    for account in ("acct_1", ""):
        dry = await office.ask("erase", "--repeat-guests", "--account", account, "--dry-run")
        done = await office.ask("erase", "--repeat-guests", "--account", account)
        assert counts_of(done) == counts_of(dry)
        assert counts_of(done)["events"] == 3
        left = await office.rows("SELECT DISTINCT account FROM billing.events WHERE payload::text ~* 'kim.guest'")
        assert left == ([{"account": ""}] if account else [])


async def test_B6_finding_the_erasures_to_repeat_does_not_read_the_whole_ledger(office: Office) -> None:
    await office.rows(
        "INSERT INTO billing.events (event_id, type, stream, received_at, applied_at, outcome, payload) SELECT "
        "'evt_' || n, 'charge.updated', 'payments', now(), now(), 'ignored', '{}' FROM generate_series(1, 5000) n"
    )
    await lacking(office, "acct_1")
    await office.rows("ANALYZE billing.events")
    read = "SELECT seq_tup_read, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'events'"
    async with office.session() as connection, connection.transaction():
        (before,) = await connection.fetch(read)
        found = await Eraser(connection, livemode=False, clock=utc_now).repeat(by="kim", account="acct_1", is_dry=True)
        (after,) = await connection.fetch(read)
    assert len(found) == 1
    assert after["seq_tup_read"] == before["seq_tup_read"]


async def test_B6_two_commands_that_repeat_an_erasure_at_the_same_time_do_it_once(office: Office) -> None:
    await lacking(office, "")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def are_both_waiting() -> bool:
        return len(await office.rows(waiting)) == 2

    async with office.session() as one, office.session() as other, office.session() as blocker:
        erasers = [Eraser(connection, livemode=False, clock=utc_now) for connection in (one, other)]
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE billing.erasures IN SHARE MODE")
            running = [asyncio.create_task(eraser.repeat(by="kim")) for eraser in erasers]
            await eventually(are_both_waiting, "both to wait")
        first, second = await asyncio.gather(*running)
    assert first == second
    assert first[0].counts["events"] == 3
    assert len(await office.rows("SELECT 1 FROM billing.audit_log")) == 1


async def test_B6_a_guest_is_followed_through_any_number_of_purchases(office: Office) -> None:
    """Each event names the object of the one before, so each round of the search finds one more."""
    key, links = guest_key(GUEST), 25
    await office.rows(
        "INSERT INTO billing.event_objects (account, stripe_id, event_id) "
        "SELECT '', CASE WHEN n = 0 THEN $1 ELSE 'ch_' || n END, 'evt_' || m FROM generate_series(0, $2) n, "
        "LATERAL (VALUES (n), (n + 1)) AS e (m)",
        key,
        links,
    )
    await office.rows(
        "INSERT INTO billing.events (event_id, type, stream, received_at, applied_at, outcome) "
        "SELECT DISTINCT event_id, 't', 's', now(), now(), 'applied' FROM billing.event_objects"
    )
    async with office.session() as connection:
        (found,) = await guest_data(connection, key)
    assert (len(found.event_ids), len(found.stripe_ids)) == (links + 2, links)
