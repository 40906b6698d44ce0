"""`billing erase` and `billing export`: what a person asks for, with a dry run that is right and a record (B6)."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.builder import Json, StripeEvents
from local.stripe.payments import charge, dispute
from ops.cli import command_line
from recovery.privacy.erasing import Eraser, NotApplied
from recovery.privacy.exporting import export_data
from recovery.privacy.subjects import CustomerSubject, Subjects
from schemas.errors import StoreUnavailable
from schemas.ordering import guest_key
from schemas.settings import Config, Plan
from schemas.timing import utc_now
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.ownership import guest_data
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.erasurekit import JANE, history, left
from tests.kits.reconcilekit import ReconcileKit, open_kit, send
from tests.waiting import eventually

MAKE = StripeEvents()
AT = int((utc_now() - timedelta(days=3)).timestamp())
GUEST = "Kim.Guest@Example.com"
CONFIG = '[endpoints.default]\nsecrets = ["whsec_1"]\n[plans.pro]\nname = "Pro"\nprices = ["price_pro"]\n'


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


class Office:
    """The commands, and a worker that runs next to them."""

    def __init__(self, desk: ReconcileKit, folder: Path) -> None:
        self.desk, self.folder, self.config = desk, folder, folder / "privacy.toml"
        self.config.write_text(CONFIG)
        self.processed = set[tuple[int, int]]()

    async def send(self, *events: Json) -> None:
        await send(self.desk, list(events))
        await self.work()

    async def work(self) -> None:
        letters = DeadLetterPublisher(self.desk.settings.kafka, self.desk.settings.dead_topic)
        processor = Processor(
            store=self.desk.store, dead_letters=letters, rules=RULES, group="test.worker", code_version="1",
            config=Config(plans={"pro": Plan(name="Pro", prices=("price_pro",))}),
        )  # fmt: skip
        records = await asyncio.to_thread(self.desk.records)
        new = [record for record in records if (record.partition, record.offset) not in self.processed]
        if new:
            await processor.process(new)
        self.processed |= {(record.partition, record.offset) for record in new}
        letters.close()

    async def ask(self, *arguments: str, code: int = 0) -> Any:
        """Runs the command while a worker runs. Returns its JSON, or what it said if it did not end with 0."""
        settings = self.desk.environment(self.folder) | {"BILLING_CONFIG": str(self.config)}
        call = partial(CliRunner().invoke, command_line(["erase", "export"]), [*arguments, "--json"], env=settings)
        command = asyncio.create_task(asyncio.to_thread(call))
        while not command.done():
            if "--dry-run" not in arguments and "0" not in arguments:
                await self.work()
            await asyncio.wait([command], timeout=0.2)
        ended = await command
        assert ended.exit_code == code, ended.output
        return orjson.loads(ended.stdout.splitlines()[-1]) if code == 0 else ended.stderr

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.desk.settings.database_url.get_secret_value())
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        async with self.session() as connection:
            return [dict(row) for row in await connection.fetch(query, *arguments)]

    async def found(self, *needles: str) -> set[str]:
        """The tables with a row that contains one of the texts, in any case of letters."""
        tables = await self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'billing'")
        wanted = [f"%{needle.lower()}%" for needle in needles]
        return {
            table["tablename"]
            for table in tables
            if await self.rows(
                f"SELECT 1 FROM billing.{table['tablename']} t WHERE lower(t::text) LIKE ANY($1)",
                wanted,
            )
        }


@pytest.fixture
def office(desk: ReconcileKit, tmp_path: Path) -> Office:
    return Office(desk, tmp_path)


def counts_of(answer: Any) -> dict[str, int]:
    (one,) = answer["erasures"]
    rows: dict[str, int] = one["rows"]
    return rows


async def test_B6_a_living_customer_is_erased_as_the_dry_run_says_and_only_once_confirmed(office: Office) -> None:
    await office.send(*history(MAKE))
    before = await office.found("jane", "erasable")
    address = JANE["email"].upper()
    dry = await office.ask("erase", address, "--dry-run")
    assert await office.found("jane", "erasable") == before
    refused = await office.ask("erase", address, "--reason", "request 7", code=1)
    assert "sub_1 is running" in refused
    assert await office.found("jane", "erasable") == before

    done = await office.ask(
        "erase", address, "--reason", f"asked by {JANE['email']}", "--by", "sam", "--even-if-running"
    )

    assert counts_of(done) == counts_of(dry)
    assert {name for name, rows in counts_of(dry).items() if rows} >= {
        *("customers", "organizations", "users", "payment_methods", "emails", "dead_letters", "events"),
    }
    assert await office.found("jane", "erasable") == set()
    (noted,) = await office.rows("SELECT * FROM billing.audit_log")
    assert (noted["who"], noted["action"], noted["target"]) == ("sam", "customer.erase", "cus_1")
    assert (noted["outcome"], noted["count"]) == ("done", sum(counts_of(dry).values()))
    assert noted["reason"] == f"asked by {guest_key(JANE['email'])}"
    again = counts_of(await office.ask("erase", "cus_1", "--dry-run"))
    assert {name: rows for name, rows in again.items() if rows} == {}


async def test_B6_a_customer_who_left_is_found_by_the_user(office: Office) -> None:
    linked = MAKE.customer(metadata={"userId": "usr_7"}, **JANE)  # type: ignore[arg-type]  # the builder's keywords
    update = MAKE.event("customer.updated", linked, AT, previous={"metadata": {}})
    await office.send(*history(MAKE), update, left(MAKE, AT))
    done = await office.ask("erase", "usr_7", "--reason", "request 8")
    assert [one["who"] for one in done["erasures"]] == ["cus_1"]
    assert await office.found("jane", "erasable") == set()


async def test_B6_who_is_not_known_is_not_erased(office: Office) -> None:
    for who in ("unknown@example.com", "cus_none", "usr_none"):
        assert "no customer and no guest" in await office.ask("erase", who, "--reason", "request", code=1)
    assert await office.rows("SELECT * FROM billing.audit_log") == []


async def test_B6_two_customers_of_one_address_need_a_confirmation(office: Office) -> None:
    same = [MAKE.customer(id_, email="shared@example.com", name="Agency") for id_ in ("cus_1", "cus_2")]
    await office.send(*(MAKE.event("customer.created", one, AT) for one in same))
    refused = await office.ask("erase", "shared@example.com", "--reason", "request", code=1)
    assert "2 customers match: cus_1, cus_2" in refused
    await office.ask("erase", "shared@example.com", "--reason", "request", "--all")
    assert await office.found("shared@", "agency") == set()


async def test_B6_a_request_that_no_worker_applies_says_so(office: Office) -> None:
    await office.send(*history(MAKE), left(MAKE, AT))
    said = await office.ask("erase", "cus_1", "--reason", "request", "--wait", "0", code=3)
    assert "applied once a worker runs" in said
    await office.work()
    assert await office.found("jane", "erasable") == set()


def purchase(session: str, *, intent: str, of: str, email: str, name: str = "Kim Guest", at: int = AT) -> list[Json]:
    """A one-time purchase without a customer, and a dispute that names only the charge."""
    person: Json = {"billing_details": {"email": email, "name": name}, "receipt_email": email}
    bought = MAKE.checkout_session(session, customer=None, mode="payment", email=email, name=name)
    bought |= {"payment_intent": intent, "customer_details": {"email": email, "name": name}}
    paid = charge(MAKE, of, customer=None, invoice=None, payment_intent=intent, **person)
    evidence = {"customer_name": name}
    disputed = dispute(MAKE, f"dp_{of}", charge=of, payment_intent=None, evidence=evidence)
    return [
        MAKE.event("checkout.session.completed", bought, at),
        MAKE.event("charge.succeeded", paid, at + 1),
        MAKE.event("charge.dispute.created", disputed, at + 2),
    ]


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
    """The restore is the state before the erasure: what the erasure changed, and its record, are put back."""
    await office.send(*purchase("cs_1", intent="pi_1", of="ch_1", email=GUEST))
    tables = ("events", "event_objects")
    copies = {name: await office.rows(f"SELECT * FROM billing.{name}") for name in tables}
    done = await office.ask("erase", GUEST, "--reason", "request 9", "--by", "sam")
    late = charge(MAKE, "ch_1", customer=None, invoice=None, payment_intent="pi_1", refunded=2900, receipt_email=GUEST)
    await office.send(MAKE.event("charge.refunded", late, AT + 100))
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
    again = purchase("cs_3", intent="pi_3", of="ch_3", email=GUEST, at=int(utc_now().timestamp()) + 60)
    await office.send(*again)
    later = {event["id"] for event in again}
    dry = await office.ask("erase", "--repeat-guests", "--dry-run")
    assert counts_of(dry)["events"] == 4  # three of the purchase, and its refund

    repeated = await office.ask("erase", "--repeat-guests")

    assert counts_of(repeated) == counts_of(dry)
    assert repeated["erasures"][0]["event"] == done["erasures"][0]["event"]
    left = await office.rows("SELECT event_id FROM billing.events WHERE payload::text ~* 'kim.guest'")
    assert {row["event_id"] for row in left} == later, "a purchase after the erasure is kept"
    (noted,) = await office.rows("SELECT who, reason FROM billing.audit_log")
    assert noted == {"who": "sam", "reason": f"repeated: request 9 ({guest_key(GUEST)})"}
    assert (await office.ask("erase", "--repeat-guests"))["erasures"] == []
    await office.ask("erase", GUEST, "--repeat-guests", code=2)
    await office.ask("erase", code=2)


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


async def test_B6_a_customer_is_not_erased_without_the_log_and_a_waiting_request_is_not_refused(office: Office) -> None:
    async with office.session() as connection:
        eraser = Eraser(connection, livemode=False, clock=utc_now, wait_s=0)
        with pytest.raises(ValueError, match="no event_log"):
            await eraser.erase(Subjects([CustomerSubject("", "cus_1")]), by="sam", reason="", even_if_running=False)
        await office.rows(
            "INSERT INTO billing.events (event_id, type, stream, received_at, applied_at, outcome) "
            "VALUES ('ers_1', 'billing.erasure', 'customers', now(), now(), 'waiting')"
        )
        with pytest.raises(NotApplied):
            await eraser._applied("cus_1", "ers_1", 0)
        await office.rows("UPDATE billing.events SET outcome = 'ignored', reason = 'it is running'")
        assert (await eraser._applied("cus_1", "ers_1", 0)).refused == "it is running"


async def test_B6_an_export_that_is_cut_off_leaves_no_file_and_says_why(office: Office, tmp_path: Path) -> None:
    await office.send(*history(MAKE))
    url = office.desk.settings.database_url

    def begun() -> list[Path]:
        return list(tmp_path.glob("*.zip"))

    async with office.session() as connection, office.session() as holder, holder.transaction():
        await holder.execute("LOCK TABLE billing.events, billing.customers IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.create_task(
            export_data(
                connection,
                Subjects([CustomerSubject("", "cus_1")]),
                tmp_path,
                PayloadArchive(""),
                url=url,
                by="sam",
                reason="ticket 1",
            )
        )
        await eventually(lambda: bool(begun()), "the archive is begun")
        await holder.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises(StoreUnavailable):
            await writing
    assert begun() == []
    (noted,) = await office.rows("SELECT outcome, reason FROM billing.audit_log")
    assert noted["outcome"] == "failed"
    assert noted["reason"].startswith("ticket 1; ")


def read(path: Path) -> tuple[Json, str]:
    """The manifest and the events of an archive that only its owner can read."""
    assert path.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(path) as archive:
        return orjson.loads(archive.read("manifest.json")), archive.read("json/events.json").decode()


async def test_B6_an_export_on_request_is_private_complete_and_recorded(office: Office, tmp_path: Path) -> None:
    await office.send(*history(MAKE), *purchase("cs_1", intent="pi_9", of="ch_9", email=GUEST))
    dry = await office.ask("export", "cus_1", "--dry-run")
    assert await office.rows("SELECT * FROM billing.audit_log") == []
    folder = tmp_path
    for who, needle in (("cus_1", JANE["name"]), (GUEST, "Kim Guest")):
        (one,) = (await office.ask("export", who, "--reason", "request", "--by", "sam", "--output", str(folder)))[
            "exports"
        ]
        manifest, events = read(Path(one["file"]))
        assert manifest["rows"] == one["rows"]
        assert needle in events
        assert "@" not in one["file"]
        if who == "cus_1":
            assert one["rows"] == dry["exports"][0]["rows"]
        again = await office.ask("export", who, "--reason", "again", "--output", str(folder), code=1)
        assert "File exists" in again
    noted = await office.rows("SELECT who, action, outcome FROM billing.audit_log ORDER BY entry_id")
    assert [(row["action"], row["outcome"]) for row in noted] == [
        ("customer.export", outcome) for outcome in ("done", "failed", "done", "failed")
    ]
