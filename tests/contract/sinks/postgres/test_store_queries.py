"""`billing event` and `billing customer` show what the store contains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from local.stack.ports import free_port
from ops.cli import command_line
from schemas.state import Customer, Membership, Organization, Payment, Subscription, User
from sinks.postgres import queries, tables
from sinks.postgres.pool import reading
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import NOW, dead_letter_row, email_row, known, ledger_row, write

Billing = Callable[..., Result]

ORGANIZATION_ID = Organization.id_of("", "cus_1")
LETTER = dead_letter_row(event_id="evt_2", message="no such currency")
FLUSH = Flush(
    known(
        Customer(account="", customer_id="cus_1", name="Ada \x1b[31mRed[/bold]", email="ada@example.com"),
        Organization(
            organization_id=ORGANIZATION_ID,
            account="",
            customer_id="cus_1",
            name="Ada",
            limits={"seats": 5},
            plan="team",
            has_access=True,
            access_reason="active",
        ),
        User(account="", user_id="usr_1", email="ada@example.com"),
        Membership(organization_id=ORGANIZATION_ID, user_id="usr_1"),
        Subscription(account="", subscription_id="sub_1", customer_id="cus_1", price_id="price_old"),
        Payment(payment_id="pay_1", account="", customer_id="cus_1", invoice_id="in_1", amount=1200, currency="eur"),
        Customer(account="acct_1", customer_id="cus_1", name="Another"),
    ),
    ledger=[
        ledger_row("evt_1", payload='{"id": "evt_1", "object": "event"}'),
        ledger_row("evt_2", outcome="dead", reason="no such currency", created=NOW + timedelta(seconds=1)),
    ],
    outbox=[email_row("welcome:sub_1", "evt_1"), email_row("other", "evt_3", customer_id="cus_2")],
    dead_letters=[LETTER],
)


@pytest.fixture
def filled(migrated_url: str) -> SecretStr:
    async def fill() -> SecretStr:
        url = SecretStr(migrated_url)
        store = await Store.connect(url, pool_size=1)
        await write(store, FLUSH)
        await store.close()
        return url

    return asyncio.run(fill())


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: SecretStr) -> Billing:
    """Runs the command line with the settings of a process."""
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    monkeypatch.setenv("BILLING_DATABASE_URL", filled.get_secret_value())
    return lambda *words: CliRunner().invoke(command_line(words[:1]), words)


async def test_nothing_can_be_written_while_reading(database: SecretStr) -> None:
    """The session of an operator's command is read-only."""
    async with reading(database) as connection:
        row = await connection.exec_driver_sql("SHOW transaction_read_only")
        assert row.scalar() == "on"


async def test_an_unknown_event_or_customer_is_none(database: SecretStr) -> None:
    async with reading(database) as connection:
        assert await queries.ledger_row(connection, "evt_1") is None
        assert await queries.emails_of_event(connection, "evt_1") == []
        assert await queries.customer_overview(connection, "", "cus_1") is None


def test_an_event_is_shown_with_its_mails(billing: Billing) -> None:
    found = orjson.loads(billing("event", "evt_1", "--json").stdout)
    assert found["event"]["payload"] == {"id": "evt_1", "object": "event"}
    assert found["event"]["outcome"] == "applied"
    assert [mail["email_key"] for mail in found["emails"]] == ["welcome:sub_1"]
    assert found["dead_letters"] == []


def test_a_dead_event_is_shown_with_its_reason(billing: Billing) -> None:
    found = orjson.loads(billing("event", "evt_2", "--json").stdout)
    assert found["event"]["reason"] == "no such currency"
    assert [(letter["offset"], letter["error_class"]) for letter in found["dead_letters"]] == [(41, "RuleViolated")]


def test_a_customer_is_shown_whole_and_alone(billing: Billing) -> None:
    found = orjson.loads(billing("customer", "cus_1", "--json").stdout)
    assert found["customer"]["email"] == "ada@example.com"
    assert found["organization"]["limits"] == {"seats": 5}
    assert found["members"] == [{"role": "ADMIN", "user_id": "usr_1", "email": "ada@example.com"}]
    assert [row["subscription_id"] for row in found["subscriptions"]] == ["sub_1"]
    assert [row["amount"] for row in found["payments"]] == [1200]
    assert [row["email_key"] for row in found["emails"]] == ["welcome:sub_1"]
    assert [row["event_id"] for row in found["events"]] == ["evt_2", "evt_1"], "newest first"
    assert "payload" not in found["events"][0]

    under_another = orjson.loads(billing("customer", "cus_1", "--account", "acct_1", "--json").stdout)
    assert under_another["customer"]["name"] == "Another"
    assert under_another["events"] == []


def test_G40_each_table_with_customers_is_part_of_the_overview(billing: Billing) -> None:
    """Or is its way to events that do not name the customer."""
    found = orjson.loads(billing("customer", "cus_1", "--json").stdout)
    named = {"customers": "customer", "organizations": "organization"}
    with_customers = {table.name for table in tables.metadata.tables.values() if "customer_id" in table.c}
    assert {named.get(name, name) for name in with_customers} - found.keys() == {"object_owners"}
    shown = billing("customer", "cus_1").stdout
    assert "refunded_amount" in shown
    assert "on_hold" in shown


def test_a_customer_is_shown_with_their_access_and_an_unknown_price(billing: Billing) -> None:
    found = orjson.loads(billing("customer", "cus_1", "--json").stdout)
    assert found["access"] == {"has_access": True, "plan": "team", "reason": "active", "changes_at": None}
    assert found["next"] == [
        "no plan has price_old: add it to a plan in the config, restart the workers, then billing plans apply"
    ]
    shown = " ".join(billing("customer", "cus_1").stdout.split())
    assert "access" in shown
    assert "next: no plan has price_old" in shown


def test_tables_show_whole_ids_and_no_control_characters(billing: Billing) -> None:
    shown = billing("customer", "cus_1")
    assert shown.exit_code == 0
    assert "sub_1" in shown.stdout
    assert "Ada \N{REPLACEMENT CHARACTER}[31mRed[/bold]" in shown.stdout
    assert "\x1b[31m" not in shown.stdout
    assert "welcome" not in billing("event", "evt_2").stdout


@pytest.mark.parametrize(
    "words", [("event", "evt_9"), ("customer", "cus_9"), ("customer", "cus_1", "--account", "acct_9")]
)
def test_an_unknown_id_is_one_line_and_exit_1(billing: Billing, words: tuple[str, ...]) -> None:
    ended = billing(*words)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"billing {words[0]}: {words[0]} {words[1]} is not known")
    assert ended.stderr.count("\n") == 1


def test_no_database_is_one_line_and_exit_3(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", f"postgresql://billing:hunter2@127.0.0.1:{free_port()}/x")
    ended = billing("event", "evt_1")
    assert ended.exit_code == 3
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.stderr
