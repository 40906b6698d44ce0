"""`billing find`, `status`, `customer` and `event`: what an operator knows leads to what they need (G39, G40, G41)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from ops.cli import command_line
from schemas.fast_row import replace
from schemas.state import Customer, Dispute, Organization, Payment, PaymentLink, Subscription
from schemas.statuses import LinkKind, PaymentStatus
from schemas.timing import utc_now
from schemas.version import Version
from sinks.postgres import tables
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import ask, dead_letter_row, email_row, known, ledger_row, write

Billing = Callable[..., Result]

CHANGES = [
    {"table": "subscriptions", "key": "sub_1", "did": "updated", "fields": {"status": ["active", "unpaid"]}},
    {"table": "timers", "key": "dunning:in_1", "did": "created", "fields": {"kind": [None, "dunning"]}},
]
LETTER = dead_letter_row(message="in_7 has 3 lines", dead_partition=0, dead_offset=5)
PAYMENT = Payment(
    payment_id="pay_1",
    account="",
    invoice_id="in_1",
    customer_id="cus_1",
    amount=2900,
    currency="eur",
    status=PaymentStatus.FAILED,
    failure_reason="insufficient_funds",
    attempt_count=2,
    on_hold=True,
)
FLUSH = Flush(
    known(
        Customer(account="", customer_id="cus_1", name="Ada Lovelace", email="Ada@example.com"),
        Customer(account="", customer_id="cus_2", name="Ada Other", email="two@example.com"),
        Customer(account="", customer_id="cus_3", email="two@example.com"),
        Customer(account="acct_1", customer_id="cus_9", email="connected@example.com"),
        Organization(
            organization_id=Organization.id_of("", "cus_1"),
            account="",
            customer_id="cus_1",
            name="Ada",
            plan="free",
            access_reason="unpaid",
        ),
        Subscription(account="", subscription_id="sub_1", customer_id="cus_1", plan="pro", version=Version("x:evt_1")),
        PAYMENT,
        PaymentLink(account="", stripe_id="in_1", payment_id="pay_1", kind=LinkKind.INVOICE),
        PaymentLink(account="", stripe_id="ch_1", payment_id="pay_1", kind=LinkKind.CHARGE),
        Dispute(account="", dispute_id="dp_1", charge_id="ch_1", amount=2900, currency="eur", status="needs_response"),
    ),
    ledger=[
        ledger_row("evt_1", changes=CHANGES),
        ledger_row("evt_dead", outcome="dead", reason="in_7 has 3 lines"),
    ],
    outbox=[email_row("payment-failed:in_1", "evt_1", status="withheld", last_error="unsubscribed")],
    dead_letters=[LETTER, replace(LETTER, offset=42, event_id="evt_dead_2", message="in_81 has 12 lines")],
)


@pytest.fixture
def filled(migrated_url: str) -> SecretStr:
    async def fill() -> SecretStr:
        url = SecretStr(migrated_url)
        store = await Store.connect(url, pool_size=1)
        await write(store, FLUSH)
        await store.close()
        await ask(url, "UPDATE billing.emails SET message_id = '<m1@example.com>'")
        return url

    return asyncio.run(fill())


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: SecretStr, kafka_bootstrap: str) -> Billing:
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    monkeypatch.setenv("BILLING_DATABASE_URL", filled.get_secret_value())
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: CliRunner().invoke(command_line(words[:1]), words)


@pytest.mark.parametrize(
    ("anything", "kind", "id_"),
    [
        ("evt_1", "event", "evt_1"),
        ("cus_1", "customer", "cus_1"),
        ("sub_1", "subscription", "sub_1"),
        ("in_1", "payment", "in_1"),
        ("ch_1", "payment", "ch_1"),
        ("dp_1", "dispute", "dp_1"),
        ("ada@EXAMPLE.com", "customer", "cus_1"),
        ("ada lov", "customer", "cus_1"),
        ("connected@example.com", "customer", "cus_9"),
        ("payment-failed:in_1", "mail", "payment-failed:in_1"),
        ("<m1@example.com>", "mail", "payment-failed:in_1"),
        ("billing.events/3/41", "event", "evt_dead"),
        ("billing.dead/0/5", "event", "evt_dead"),
    ],
)
def test_G39_anything_leads_to_it(billing: Billing, anything: str, kind: str, id_: str) -> None:
    done = billing("find", anything, "--json")
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert (kind, id_) in [(one["kind"], one["id"]) for one in found], done.output
    assert done.exit_code == 0
    assert billing("find", anything).stdout.count(id_) >= 1


def test_the_commands_show_what_they_found(billing: Billing) -> None:
    assert billing("find", "unknown@example.com").exit_code == 1

    one = billing("customer", "in_1")
    assert one.exit_code == 0, one.output
    for text in (
        "access: has no access: unpaid",
        "access: in_1 over 29.00 EUR failed 2 times (insufficient_funds)",
        "access: evt_dead (invoice.paid) is dead: RuleViolated: in_7 has 3 lines; it may restore access",
        "dp_1",
        "needs_response",
    ):
        assert text in one.stdout
    assert orjson.loads(billing("customer", "Ada@example.com", "--json").stdout)["customer"]["customer_id"] == "cus_1"
    several = billing("customer", "two@example.com")
    assert several.exit_code == 1
    assert "cus_2" in several.stdout
    assert "cus_3" in several.stdout
    assert "leads to 2 customers" in several.stderr

    shown = billing("event", "evt_1").stdout
    assert "  subscriptions sub_1 updated\n    status: active → unpaid\n" in shown
    assert "  timers dunning:in_1 created\n    kind: dunning\n" in shown
    assert "not done: mail plan-changed was not sent: unsubscribed" in shown
    assert orjson.loads(billing("event", "evt_1", "--json").stdout)["event"]["changes"] == CHANGES


def test_G40_a_customer_has_every_table_that_names_them(billing: Billing, filled: SecretStr) -> None:
    """Also events that name only a payment of theirs, as a dispute that was applied before its payment was known."""
    disputed = (
        "INSERT INTO billing.events (event_id, type, stream, created, received_at, applied_at, outcome) "
        "VALUES ('evt_dispute', 'charge.dispute.created', 'payments', now(), now(), now(), 'applied')"
    )
    named = "INSERT INTO billing.event_objects (account, stripe_id, event_id) VALUES ('', 'ch_1', 'evt_dispute')"
    for statement in (disputed, named):
        asyncio.run(ask(filled, statement))
    shown = orjson.loads(billing("customer", "cus_1", "--json").stdout)
    assert shown["events"][0]["event_id"] == "evt_dispute"
    assert shown["totals"]["events"] == len(shown["events"]) == 3
    one = {"customers": "customer", "organizations": "organization"}
    of_customers = {table.name for table in tables.metadata.tables.values() if "customer_id" in table.c}
    of_customers.remove("object_owners")  # ids alone, by which late events are recognised
    assert {one.get(name, name) for name in of_customers} <= shown.keys()
    assert "evt_dispute" in billing("customer", "cus_1").stdout


def test_letters_of_one_cause_are_one_group(billing: Billing) -> None:
    done = billing("dead", "ls", "--groups", "--json")
    (group,) = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert (group["letters"], group["customers"]) == (2, 1)
    shown = billing("dead", "ls", "--groups").stdout
    assert "RuleViolated" in shown
    assert "has n lines" in shown
    assert group["sample"] in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_G41_status_names_the_worst_first_and_exits_1(billing: Billing, filled: SecretStr) -> None:
    waits = utc_now() - timedelta(hours=3)
    asyncio.run(
        ask(filled, "UPDATE billing.events SET outcome = 'waiting', received_at = $1 WHERE event_id = 'evt_1'", waits)
    )
    movement = (
        "INSERT INTO analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day) "
        "VALUES ('', false, 'cus_1', 'eur', now(), 'pro', 'new', 2900, now()::date)"
    )
    asyncio.run(ask(filled, movement))
    done = billing("status", "--json")
    assert done.exit_code == 1, done.output
    found = orjson.loads(done.stdout)
    texts = [one["text"] for one in found["concerns"]]
    at = texts.index("2 dead letters in 1 group, the first since 2026-03-01 12:30 UTC")
    assert at < next(number for number, text in enumerate(texts) if text.startswith("1 event waiting"))
    assert [one["name"] for one in found["schedules"]] == ["reconcile", "audit", "retry of failed events", "prune"]
    assert {one["name"]: one["last"] for one in found["schedules"]}["prune"] == "nothing in 60 days"
    shown = billing("status").stdout
    assert "billing dead ls --groups" in shown
    behind = "29.00 EUR of MRR (test mode) waits behind 2 dead letters and 1 waiting event of 1 customer"
    assert behind in shown
    assert max(len(line) for line in shown.splitlines()) <= 120


def test_status_shows_the_last_run_of_every_schedule(billing: Billing, filled: SecretStr) -> None:
    entry = (
        "INSERT INTO billing.audit_log (who, role, action, outcome, count, reason) "
        "VALUES ('someone', $1, $2, $3, $4, $5)"
    )
    for values in (
        ("schedule", "dead.replay", "done", 3, None),
        ("cli", "dead.replay", "done", 9, None),  # a person's replay is no run of the schedule
        ("schedule", "prune", "failed", None, "StoreUnavailable: no answer"),
    ):
        asyncio.run(ask(filled, entry, *values))
    found = orjson.loads(billing("status", "--json").stdout)
    last = {one["name"]: one["last"] for one in found["schedules"]}
    assert last["retry of failed events"].startswith("done ")
    assert last["retry of failed events"].endswith(", 3 rows")
    assert last["prune"].startswith("failed ")
    assert last["prune"].endswith(": StoreUnavailable: no answer")
    shown = billing("status").stdout
    assert all(name in shown for name in last)
