"""B6 on the real store: the export contains all stored data, and after the erasure no table identifies the customer."""

from __future__ import annotations

import asyncio
import csv
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from eventlog import client
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.retention import KafkaKeeps
from local.stripe.builder import ApiShape, Json, StripeEvents
from local.stripe.payments import charge, dispute, invoice_payment, payment_method
from ops.cli import command_line
from schemas.kafka_access import KafkaAccess
from schemas.record import RecordHeaders, Source, record_of
from schemas.settings import Config, Plan
from schemas.state import Organization
from schemas.timer import timer_event
from schemas.timing import utc_now
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Verdict
from sinks.exports.exporter import Exporter
from sinks.exports.orders import ExportOrders
from sinks.exports.storage import Storage
from sinks.postgres import tables
from sinks.postgres.personal_data import held_on_customers
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.rulekit import DAY, NOW, at

JANE = {"email": "jane.erasable@example.com", "name": "Jane Erasable"}
LAST4 = "z9q7"
"""Stands for the last digits of the card. Random ids (hexadecimal), times and amounts cannot contain it."""
NEEDLES = ("jane", "erasable", LAST4)
"""Lower-case texts that identify the customer: the name and the last digits of the card."""
LATE = NOW + 10 * DAY
GONE = LATE + 30 * DAY

# Tables without customer data. A new table is listed here, or belonging.py defines how its rows belong to a customer.
IMPERSONAL = {
    *("backfills", "brakes", "reconciliations", "rebuilds", "rebuilt", "log_positions", "outages"),
    *("database_identity", "system_mode", "positions"),
    *("audits", "audit_differences", "audit_objects"),
    "audit_log",  # addresses are replaced before they are written (sinks/postgres/audit_log.py)
}


@dataclass
class ErasureKit:
    """Worker and exporter on one database, with a clock that tests move."""

    url: str
    processor: Processor
    exporter: Exporter
    folder: Path
    now: list[datetime] = field(default_factory=lambda: [at(NOW)])
    offset: int = 0

    async def process(self, *events: Json) -> list[Verdict]:
        records = []
        for event in events:
            headers = RecordHeaders(
                event_id=event["id"],
                type=event["type"],
                source=Source.STRIPE,
                account="",
                livemode=False,
                api_version="",
                endpoint="default",
                received_at=self.now[0],
            )
            value = orjson.dumps(event)
            records.append(record_of("events", 0, self.offset, b"cus_1", value, headers.encode(), 1_700_000_000.0))
            self.offset += 1
        return await self.processor.process(records)

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def due(self, key: str) -> Json:
        """The event of a timer, as the scheduler appends it."""
        (row,) = await self.rows("SELECT * FROM billing.timers WHERE timer_key = $1", key)
        return timer_event(_timer(row))

    async def found(self) -> dict[str, list[str]]:
        """The columns that contain each needle, over all text and JSON columns of the schema."""
        columns = await self.rows(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'billing' AND data_type IN ('text', 'jsonb', 'character varying')"
        )
        by_table: dict[str, list[str]] = {}
        for column in columns:
            by_table.setdefault(column["table_name"], []).append(column["column_name"])
        hits: dict[str, list[str]] = {needle: [] for needle in NEEDLES}
        connection = await asyncpg.connect(self.url)
        try:
            for table, names in by_table.items():
                texts = ", ".join(f"coalesce(string_agg(lower(\"{name}\"::text), chr(10)), '')" for name in names)
                row = await connection.fetchrow(f'SELECT {texts} FROM billing."{table}"')
                for name, text in zip(names, row or (), strict=True):
                    for needle in NEEDLES:
                        if needle in text:
                            hits[needle].append(f"{table}.{name}")
        finally:
            await connection.close()
        return {needle: places for needle, places in hits.items() if places}

    def archives(self) -> list[Path]:
        return sorted(self.folder.glob("*")) if self.folder.exists() else []


def _timer(row: Mapping[str, Any]) -> Any:
    from schemas.state import Timer

    names = ("timer_key", "account", "customer_id", "kind", "subject", "due_at", "livemode", "event_id")
    return Timer(**{name: row[name] for name in names}, data=orjson.loads(row["data"]))


@pytest.fixture(params=list(ApiShape), ids=lambda shape: shape.name.lower())
def make(request: pytest.FixtureRequest) -> StripeEvents:
    return StripeEvents(request.param)


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[ErasureKit]:
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    for creation in admin.create_topics([NewTopic(f"{topic_prefix}.dead", 1, 1)]).values():
        creation.result(timeout=15)
    store = await Store.connect(database, pool_size=2)
    dead_letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    now = [at(NOW)]
    orders = await ExportOrders.connect(
        database, claimer="test", application="billing-test", ahead=lambda: now[0] - utc_now()
    )
    folder = tmp_path / "exports"
    yield ErasureKit(
        database.get_secret_value(),
        Processor(
            store=store,
            dead_letters=dead_letters,
            rules=RULES,
            config=Config(plans={"pro": Plan(name="Pro", prices=("price_pro",))}),
            group="test.worker",
            code_version="1",
            clock=lambda: now[0],
            kafka_keeps=KafkaKeeps(timedelta(days=29), timedelta(days=91)),
        ),
        Exporter(orders, Storage(str(folder)), clock=lambda: now[0]),
        folder,
        now,
    )
    await orders.close()
    dead_letters.close()
    await store.close()


def history(make: StripeEvents) -> list[Json]:
    """A year of events about Jane, with her name in every place that can contain it."""
    card = payment_method(make, "pm_1", last4=LAST4)
    bad = make.subscription(start=NOW, status="a ninth", metadata={"name": JANE["name"]})
    return [
        make.event("customer.created", make.customer(**JANE), NOW),  # type: ignore[arg-type]  # the builder's keywords
        make.event("payment_method.attached", card, NOW + 1),
        make.event("customer.subscription.created", make.subscription(start=NOW), NOW + 2),
        make.event("invoice.paid", make.invoice("in_1", status="paid", created=NOW + 3, **JANE), NOW + 3),  # type: ignore[arg-type]  # as above
        make.event("charge.succeeded", charge(make, "ch_1", billing_details=JANE), NOW + 4),
        make.event("charge.dispute.created", dispute(make, "dp_1", charge="ch_1", evidence=JANE), NOW + 5),
        make.event("invoice.payment_failed", make.invoice("in_2", created=NOW + 6, **JANE), NOW + 6),  # type: ignore[arg-type]  # as above
        make.event("customer.subscription.updated", bad, NOW + 7),
        make.event(
            "quote.finalized", {"object": "quote", "id": "qt_1", "customer": "cus_1", "header": JANE["name"]}, NOW
        ),
    ]


def left(make: StripeEvents, when: int = LATE) -> Json:
    ended = make.subscription(start=NOW, status="canceled", ended_at=when)
    return make.event("customer.subscription.deleted", ended, when)


async def test_B6_after_the_erasure_no_column_of_any_table_identifies_the_customer(
    rig: ErasureKit, make: StripeEvents
) -> None:
    await rig.process(*history(make), left(make))
    assert set(await rig.found()) == set(NEEDLES), "the history must hold what is to be erased"
    amounts = await rig.rows("SELECT invoice_id, amount, currency, status FROM billing.payments ORDER BY invoice_id")
    rig.now[0] = at(GONE)

    verdicts = await rig.process(await rig.due("erase::sub_1"))

    assert verdicts == [Applied()]
    assert await rig.found() == {}
    after = await rig.rows("SELECT invoice_id, amount, currency, status FROM billing.payments ORDER BY invoice_id")
    assert after == amounts
    assert amounts
    pending = await rig.rows(
        "SELECT timer_key FROM billing.timers WHERE status IN ('pending', 'fired') AND customer_id = 'cus_1' "
        "UNION ALL SELECT email_key FROM billing.emails WHERE status IN ('queued', 'sending') "
        "AND customer_id = 'cus_1' "
        "UNION ALL SELECT call_key FROM billing.stripe_calls WHERE status IN ('queued', 'calling') "
        "UNION ALL SELECT event_id FROM billing.dead_letters WHERE status = 'open' "
        "UNION ALL SELECT event_id FROM billing.events WHERE outcome = 'waiting'"
    )
    assert pending == []
    (noted,) = await rig.rows("SELECT * FROM billing.erasures")
    assert (noted["customer_id"], noted["asked_at"], noted["erased_at"]) == ("cus_1", at(LATE), at(GONE))
    assert noted["organization_id"] == Organization.id_of("", "cus_1")
    assert noted["kafka_until"] == at(GONE) + timedelta(days=29)
    assert noted["dead_letters_until"] == at(NOW) + timedelta(days=91)
    assert orjson.loads(noted["counts"])["events"] >= len(history(make))


async def test_B6_other_customers_keep_their_data(rig: ErasureKit, make: StripeEvents) -> None:
    """A user of two organizations, the same customer id under another account, and an unrelated customer.

    The user's other customer bought once and has no subscription, so that the user does not stay because of it.
    """
    linked = make.checkout_session(customer="cus_1", subscription="sub_1", user="usr_shared")
    other = make.checkout_session("cs_2", customer="cus_2", mode="payment", user="usr_shared")
    namesake = make.event("customer.created", make.customer(email="namesake@example.com"), NOW) | {"account": "acct_9"}
    await rig.process(
        make.event("customer.created", make.customer(**JANE), NOW),  # type: ignore[arg-type]  # the builder's keywords
        make.event("customer.created", make.customer("cus_2", email="kim@example.com", name="Kim"), NOW),
        make.event("customer.subscription.created", make.subscription(start=NOW), NOW + 1),
        make.event("checkout.session.completed", linked, NOW + 2),
        make.event("checkout.session.completed", other, NOW + 3),
        namesake,
        left(make),
    )
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))

    customers = await rig.rows("SELECT account, customer_id, email FROM billing.customers ORDER BY 1, 2")
    assert [tuple(row.values()) for row in customers] == [
        ("", "cus_1", None),
        ("", "cus_2", "kim@example.com"),
        ("acct_9", "cus_1", "namesake@example.com"),
    ]
    (user,) = await rig.rows("SELECT email FROM billing.users WHERE user_id = 'usr_shared'")
    assert user["email"] == "kim@example.com"
    kept = await rig.rows("SELECT count(*) AS n FROM billing.events WHERE customer_id = 'cus_2' AND payload IS NULL")
    assert kept == [{"n": 0}]


def late_events(make: StripeEvents) -> dict[str, Json]:
    """One late event of each kind, all with the person's name, address or card (trust T24, T28)."""
    when = GONE + 5 * DAY
    person: dict[str, Any] = {
        "billing_details": {"name": JANE["name"], "email": JANE["email"]},
        "receipt_email": JANE["email"],
    }
    refunded = charge(make, "ch_1", refunded=2900, **person)
    disputed = dispute(make, "dp_late", charge="ch_1", evidence={"customer_name": JANE["name"]})
    card = payment_method(make, "pm_1", last4=LAST4, **person)
    warning = {"id": "issfr_1", "object": "radar.early_fraud_warning", "charge": "ch_1", "fraud_type": "stolen"}
    setup = {"id": "seti_1", "object": "setup_intent", "payment_method": "pm_1", "status": "succeeded"}
    invoices = {
        "voided": ("invoice.voided", make.invoice("in_2", status="void", created=when, **JANE)),  # type: ignore[arg-type]  # as above
        "paid": ("invoice.paid", make.invoice("in_3", status="paid", created=when, **JANE)),  # type: ignore[arg-type]  # as above
        "failed": ("invoice.payment_failed", make.invoice("in_4", created=when, **JANE)),  # type: ignore[arg-type]  # as above
    }
    jane = make.customer(**JANE)  # type: ignore[arg-type]  # as above
    # In the new shape a charge names no invoice, so its customer is known only once the payment is linked to it.
    of_charge = {
        "dispute": make.event("charge.dispute.created", disputed, when),
        "fraud": make.event("radar.early_fraud_warning.created", warning | person, when),
    }
    return {
        **(of_charge if make.shape is ApiShape.OLD else {}),
        "refund": make.event("charge.refunded", refunded, when),
        "card": make.event("payment_method.automatically_updated", card, when),
        "creation": make.event("customer.created", jane, NOW),
        "profile": make.event("customer.updated", jane, when, previous={"name": None}),
        **{name: make.event(type_, invoice, when) for name, (type_, invoice) in invoices.items()},
        "setup": make.event("setup_intent.succeeded", setup | person, when),
        "dead": make.event("customer.updated", jane | {"metadata": 7}, when),
    }


async def test_B6_late_events_bring_no_personal_data_back(rig: ErasureKit, make: StripeEvents) -> None:
    """Of any kind and of any time. What they say about money is stored."""
    of_intent = make.event("invoice_payment.paid", invoice_payment(make, invoice="in_1"), NOW + 4)
    await rig.process(*history(make), of_intent, left(make))
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    for name, event in late_events(make).items():
        await rig.process(event | {"id": f"evt_late_{name}"})
        assert (name, await rig.found()) == (name, {})
    (card,) = await rig.rows("SELECT brand, last4, exp_year FROM billing.payment_methods")
    assert card == {"brand": None, "last4": None, "exp_year": None}
    (paid,) = await rig.rows("SELECT status FROM billing.payments WHERE invoice_id = 'in_3'")
    assert paid["status"] == "succeeded"


async def test_B6_who_returns_after_the_erasure_is_a_new_customer(rig: ErasureKit, make: StripeEvents) -> None:
    """A subscription that begins after the erasure ends that state; the end of that one leads to another erasure."""
    await rig.process(*history(make), left(make))
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    back = GONE + 20 * DAY
    await rig.process(
        make.event("customer.subscription.created", make.subscription("sub_new", start=back), back),
        make.event("customer.updated", make.customer(**JANE), back + 1, previous={"name": None}),  # type: ignore[arg-type]
    )
    (row,) = await rig.rows("SELECT name FROM billing.customers")
    assert row["name"] == JANE["name"]
    rig.now[0] = at(back + DAY)
    await rig.process(
        make.event(
            "customer.subscription.deleted", make.subscription("sub_new", status="canceled", start=back), back + DAY
        )
    )
    rig.now[0] = at(back + 40 * DAY)
    await rig.process(await rig.due("erase::sub_new"))
    assert await rig.found() == {}


async def test_B6_later_events_in_the_batch_of_the_erasure_are_not_erased(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    rig.now[0] = at(GONE)
    due = await rig.due("erase::sub_1")
    before = make.event("customer.updated", make.customer(**JANE), GONE - 5, previous={"name": None})  # type: ignore[arg-type]  # the builder's keywords
    late = make.event("customer.updated", make.customer(**JANE), GONE + 3, previous={"name": None})  # type: ignore[arg-type]  # as above
    begun = make.event("customer.subscription.created", make.subscription("sub_new", start=GONE + 4), GONE + 4)
    back = make.event(
        "customer.updated", make.customer(email="new@example.com", name="New"), GONE + 5, previous={"email": None}
    )

    verdicts = await rig.process(before, due, late, begun, back, due)

    assert verdicts == [Applied(), Applied(), Applied(), Applied(), Applied(), Duplicate()]
    assert await rig.found() == {}
    (customer,) = await rig.rows("SELECT email, name FROM billing.customers")
    assert customer == {"email": "new@example.com", "name": "New"}
    kept = {row["event_id"] for row in await rig.rows("SELECT event_id FROM billing.events WHERE payload IS NOT NULL")}
    assert {begun["id"], back["id"]} <= kept
    assert not {before["id"], late["id"]} & kept


async def test_B6_a_new_subscription_stops_the_erasure(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    due = await rig.due("erase::sub_1")
    again = make.event("customer.subscription.created", make.subscription("sub_2", start=LATE + DAY), LATE + DAY)
    await rig.process(again)
    (timer,) = await rig.rows("SELECT status FROM billing.timers WHERE timer_key = 'erase::sub_1'")
    assert timer["status"] == "cancelled"
    rig.now[0] = at(GONE)

    await rig.process(due)  # it was appended just before

    assert await rig.rows("SELECT 1 FROM billing.erasures") == []
    assert set(await rig.found()) == set(NEEDLES)


async def test_B6_the_export_has_all_stored_data_and_is_deleted_with_it(rig: ErasureKit, make: StripeEvents) -> None:
    verdicts = await rig.process(*history(make), left(make))
    assert isinstance(verdicts[7], Dead)
    assert Ignored() in verdicts
    await rig.process(
        make.event("customer.created", make.customer("cus_2", email="kim@example.com", name="=Kim()"), NOW)
    )

    assert await rig.exporter.turn(0)
    assert not await rig.exporter.turn(0)

    (row,) = await rig.rows("SELECT * FROM billing.exports")
    (path,) = rig.archives()
    assert (row["status"], row["bytes"], row["location"]) == ("done", path.stat().st_size, path.name)
    assert path.parent.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = orjson.loads(archive.read("manifest.json"))
        documents = {name: orjson.loads(archive.read(f"json/{name}.json")) for name in manifest["rows"]}
        sheets = {
            name: list(csv.DictReader(io.StringIO(archive.read(f"csv/{name}.csv").decode()))) for name in documents
        }
        everything = b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert set(documents) == {table.name for table in held_on_customers()}
    assert {name: len(rows) for name, rows in documents.items()} == manifest["rows"]
    assert {name: len(rows) for name, rows in sheets.items()} == manifest["rows"]
    assert (manifest["customer_id"], manifest["organization_id"]) == ("cus_1", Organization.id_of("", "cus_1"))
    assert documents["customers"][0]["email"] == sheets["customers"][0]["email"] == JANE["email"]
    assert documents["payment_methods"][0]["last4"] == LAST4
    assert len(documents["events"]) == len(history(make)) + 1
    assert documents["events"][0]["payload"]["object"] == "event"
    for name in ("organizations", "users", "memberships", "subscriptions", "payments", "emails", "timers"):
        assert documents[name], name
    assert "kim@example.com" not in everything
    assert path.name not in everything

    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    assert await rig.exporter.turn(0)
    assert rig.archives() == []
    (row,) = await rig.rows("SELECT status, location FROM billing.exports")
    assert row == {"status": "deleted", "location": None}


async def test_B6_an_export_is_kept_no_longer_than_the_data_would_be(rig: ErasureKit, make: StripeEvents) -> None:
    """Also if a new subscription stopped the erasure of the data."""
    await rig.process(*history(make), left(make))
    assert await rig.exporter.turn(0)
    rig.now[0] = at(GONE)
    assert await rig.exporter.turn(0)
    assert rig.archives() == []


async def test_B6_an_archive_written_during_the_erasure_is_deleted(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    orders = await ExportOrders.connect(
        SecretStr(rig.url), claimer="another", application="billing-test", ahead=lambda: rig.now[0] - utc_now()
    )
    rig.now[0] = at(GONE - 60)
    (order,) = await orders.claim(1)
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    assert not await orders.done(order, {"bytes": 1, "sha256": ""})
    rig.folder.mkdir(exist_ok=True)
    (rig.folder / str(order.location)).write_bytes(b"left by a crash")
    assert not await rig.exporter.turn(0), "its writer may still be active"
    rig.now[0] += timedelta(minutes=30)
    assert await rig.exporter.turn(0)
    assert rig.archives() == []
    await orders.close()


async def test_D8_an_export_that_cannot_be_stored_is_retried_fails_and_can_be_requeued(
    rig: ErasureKit, make: StripeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.process(*history(make), left(make))
    rig.folder.write_text("a file where the folder should be")
    for _ in range(8):
        assert await rig.exporter.turn(0)
        (row,) = await rig.rows("SELECT status, next_attempt_at, last_error FROM billing.exports")
        rig.now[0] = row["next_attempt_at"] + timedelta(seconds=1)
    assert row["status"] == "failed"
    assert not await rig.exporter.turn(0)
    assert row["last_error"].startswith(("FileExistsError", "NotADirectoryError"))
    monkeypatch.setenv("BILLING_DATABASE_URL", rig.url)
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")  # not used here
    monkeypatch.setenv("BILLING_CONFIG", str(rig.folder / "billing.toml"))  # as above

    async def billing(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, command_line(["exports", "calls"]), arguments)

    listed = await billing("exports", "ls", "--json")
    key = orjson.loads(listed.stdout)["export_key"]
    rig.folder.unlink()
    assert (await billing("exports", "requeue", key)).stdout.split() == [key]
    await rig.rows("UPDATE billing.exports SET next_attempt_at = $1", rig.now[0])
    assert await rig.exporter.turn(0)
    (row,) = await rig.rows("SELECT status, attempts, location FROM billing.exports")
    assert (row["status"], row["attempts"]) == ("done", 0)
    assert [path.name for path in rig.archives()] == [row["location"]]
    again = await billing("exports", "requeue", key)
    assert (again.exit_code, again.stderr) == (1, f"0 requeued\nbilling exports requeue: not a failed export: {key}\n")


def test_each_table_declares_whether_it_has_customer_data() -> None:
    held = {table.name for table in held_on_customers()}
    others = {table.name for table in tables.metadata.tables.values()} - held
    assert others <= IMPERSONAL, f"define in belonging.py which rows belong to a customer in {others - IMPERSONAL}"
