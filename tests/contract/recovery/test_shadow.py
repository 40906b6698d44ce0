"""Shadow mode: everything is applied, nothing leaves, and the switch says what happens with what was held (F2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from eventlog.topics import ensure_topics
from schemas.effects import CallStripe, QueueEmail
from schemas.settings import Config, Mail, Settings
from schemas.state import Customer, Organization, Subscription
from schemas.statuses import SubscriptionStatus
from sinks.email.outbox import MailOutbox
from sinks.email.samples import SAMPLES
from sinks.outbox.claims import claims_of
from sinks.postgres.outboxes import EMAILS, NOTIFICATIONS, OUTBOXES, STRIPE_CALLS, Origin
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.postgres.tables import HELD
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.clikit import billing
from tests.kits.outboxkit import sample_row
from tests.kits.shadowkit import settle
from tests.kits.storekit import known
from tests.kits.stripekit import TEST_KEY, FakeStripeServer
from tests.paths import ROOT


@dataclass
class Rig:
    settings: Settings
    config: Config
    store: Store
    mailbox: FaultyMailbox
    stripe: FakeStripeServer
    connection: asyncpg.Connection[asyncpg.Record]

    async def queue(self, *rows: Any) -> None:
        async with self.store.transaction([]) as transaction:
            await transaction.flush(Flush(known(), outbox=list(rows)))

    async def mail(self, key: str) -> None:
        order = QueueEmail(
            key=key, account="", customer_id="cus_1", template="payment-receipt", recipient="jo@example.com",
            data=SAMPLES["payment-receipt"],
        )  # fmt: skip
        await self.queue(replace(EMAILS.to_row(order, Origin("evt_1", livemode=True), await self.now())))

    async def now(self) -> Any:
        return await self.connection.fetchval("SELECT now()")

    async def rows(self, name: str) -> dict[str, tuple[str, str | None]]:
        outbox = next(one for one in OUTBOXES if one.name == name)
        found = await self.connection.fetch(f"SELECT {outbox.key} AS key, status, last_error FROM billing.{name}")
        return {row["key"]: (row["status"], row["last_error"]) for row in found}

    async def billing(self, *words: str, code: int = 0) -> str:
        env: Mapping[str, str] = {
            "BILLING_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "BILLING_CONFIG": str(ROOT / "config.example.toml"),
            "BILLING_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "BILLING_TOPIC_PREFIX": self.settings.topic_prefix,
        }
        ended = await asyncio.to_thread(billing, words, env)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture
async def rig(kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Rig]:
    config = Config(mail=Mail(sender="Acme <billing@example.com>", send_test_mode=True))
    async with FaultyMailbox() as mailbox, FakeStripeServer() as stripe:
        settings = Settings(
            kafka_bootstrap=kafka_bootstrap, database_url=database, config_path=tmp_path / "unused",
            topic_prefix=topic_prefix, partitions=3, smtp_url=SecretStr(mailbox.url), state_dir=tmp_path,
            stripe_api_key=SecretStr(TEST_KEY), stripe_api_base=stripe.url,
        )  # fmt: skip
        ensure_topics(settings)
        store = await Store.connect(database, pool_size=2)
        connection = await asyncpg.connect(database.get_secret_value())
        yield Rig(settings, config, store, mailbox, stripe, connection)
        await connection.close()
        await store.close()


async def test_nothing_of_any_outbox_leaves_and_all_of_it_is_reported(rig: Rig) -> None:
    assert "nothing leaves" in await rig.billing("shadow", "begin")
    assert "already" in await rig.billing("shadow", "begin")
    for outbox in OUTBOXES:
        if outbox is not EMAILS:
            await rig.queue(sample_row(outbox))
    rig.stripe.objects["sub_1"] = {"id": "sub_1", "object": "subscription"}
    read = CallStripe(key="read", account="", customer_id="cus_1", method="GET", path="/v1/subscriptions/sub_1")
    await rig.queue(STRIPE_CALLS.to_row(read, Origin("evt_1", livemode=False), await rig.now()))
    await rig.mail("receipt")
    await rig.queue(replace(sample_row(EMAILS), email_key="broken"))
    rig.settings = rig.settings.model_copy(update={"smtp_url": SecretStr("smtp://127.0.0.1:1")})  # no one answers

    await settle(rig.settings, rig.config)

    for outbox in OUTBOXES:
        found = await rig.rows(outbox.name)
        held = [key for key, row in found.items() if row == ("withheld", HELD)]
        assert len(held) == 1, (outbox.name, found)
    assert (await rig.rows("emails"))["broken"][0] == "failed"  # it could not have been sent either
    assert [seen.method for seen in rig.stripe.requests] == ["GET"]
    assert (await rig.rows("stripe_calls"))["read"][0] == "done"
    assert await rig.connection.fetchval("SELECT recipient FROM billing.emails WHERE email_key = 'receipt'")
    assert not written(rig.settings.exports_place)

    report = orjson.loads(await rig.billing("shadow", "report", "--json", "--list", "mail", "--since", "2026-01-01"))
    assert report["is_on"]
    assert {(one["outbox"], one["count"]) for one in report["held"]} == {(outbox.name, 1) for outbox in OUTBOXES}
    (mail,) = report["rows"]["emails"]
    assert (mail["email_key"], mail["recipient"]) == ("receipt", "jo@example.com")
    shown = await rig.billing("shadow", "report", "--list", "calls", "--since", "2026-01-01")
    assert "payment-receipt" in shown
    assert "sample-path" in shown
    status = await rig.billing("status", code=1)
    assert "Shadow mode is on" in status


async def test_the_switch_decides_about_what_was_held(rig: Rig) -> None:
    await rig.billing("shadow", "end", "--keep", code=1)
    await rig.billing("shadow", "begin")
    await rig.mail("first")
    await settle(rig.settings, rig.config)
    await rig.mail("second")  # still queued at the switch
    assert "give --keep or --release-since" in await rig.billing("shadow", "end", code=2)

    await rig.billing("shadow", "end", "--keep")
    await rig.mail("third")
    await settle(rig.settings, rig.config)
    assert await rig.rows("emails") == {
        "first": ("withheld", HELD),
        "second": ("withheld", HELD),
        "third": ("sent", None),
    }
    assert "off since" in await rig.billing("shadow", "report")
    who = await rig.connection.fetch("SELECT action FROM billing.audit_log ORDER BY entry_id")
    assert [row["action"] for row in who] == ["shadow.begin", "shadow.end"]

    await rig.billing("mail", "requeue", "first")
    await rig.billing("shadow", "begin")
    await settle(rig.settings, rig.config)
    assert len(rig.mailbox.messages) == 1
    await rig.connection.execute(
        "UPDATE billing.emails SET queued_at = now() - interval '2 hours' WHERE email_key = 'first'"
    )
    assert "emails" in await rig.billing("shadow", "end", "--release-since", "1h")
    await settle(rig.settings, rig.config)
    found = await rig.rows("emails")
    assert (found["first"], found["second"]) == (("withheld", HELD), ("sent", None))
    assert len(rig.mailbox.messages) == 2


async def test_calls_that_no_key_could_make_are_not_made_later(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"stripe_api_key": None})
    await rig.billing("shadow", "begin")
    await rig.queue(sample_row(STRIPE_CALLS))
    await settle(rig.settings, rig.config)
    await rig.billing("shadow", "end", "--keep")
    (row,) = (await rig.rows("stripe_calls")).values()
    assert row == ("withheld", HELD)


async def test_what_a_dispatcher_had_claimed_does_not_leave_after_the_switch(rig: Rig) -> None:
    """It was killed, or gives the rest of its batch back: neither brings a row back that the switch has held."""
    await rig.billing("shadow", "begin")
    for outbox in OUTBOXES:
        if outbox is not EMAILS:
            await rig.queue(sample_row(outbox))
    await rig.mail("receipt")
    claimed = []
    for outbox in OUTBOXES:
        claims = await claims_of(outbox).connect(rig.settings.database_url, claimer="killed")
        claimed += [(claims, row) for row in await claims.claim(10)]
    assert len(claimed) == len(OUTBOXES)

    await rig.billing("shadow", "end", "--keep")
    for claims, row in claimed:
        assert not await claims.give_back(row, timedelta(0), None)
        assert not await claims.withhold(row, HELD)
        await claims.close()
    for outbox in OUTBOXES:
        await rig.connection.execute(f"UPDATE billing.{outbox.name} SET next_attempt_at = now() - interval '1 hour'")
    await settle(rig.settings, rig.config)
    for outbox in OUTBOXES:
        assert {*(await rig.rows(outbox.name)).values()} == {("withheld", HELD)}, outbox.name
    assert rig.mailbox.messages == []
    assert rig.stripe.requests == []
    assert not written(rig.settings.exports_place)


async def test_a_row_that_the_switch_could_not_see_yet_is_not_held_after_it(rig: Rig) -> None:
    """It was queued and claimed while the transaction of the switch was running."""
    await rig.billing("shadow", "begin")
    await rig.mail("receipt")
    claims = await MailOutbox.connect(rig.settings.database_url, claimer="slow")
    (row,) = await claims.claim(10)
    assert row.is_shadow
    await rig.connection.execute("UPDATE billing.shadow SET ended_at = now()")
    assert not await claims.withhold(row, HELD)
    await claims.close()
    await rig.connection.execute("UPDATE billing.emails SET next_attempt_at = now()")
    await settle(rig.settings, rig.config)
    assert await rig.rows("emails") == {"receipt": ("sent", None)}


async def test_an_interrupted_release_is_finished_by_the_same_command(rig: Rig) -> None:
    await rig.billing("shadow", "end", "--release-since", "1h", code=1)  # there never was a period
    await rig.billing("shadow", "begin")
    await rig.mail("receipt")
    await rig.queue(sample_row(NOTIFICATIONS), sample_row(STRIPE_CALLS))
    await rig.billing("shadow", "end", "--keep")  # as if it had been killed before the first row
    assert (await rig.billing("shadow", "end", "--release-since", "2026-01-01")).count("1 released") == 3
    assert "1 released" not in await rig.billing("shadow", "end", "--release-since", "2026-01-01")
    await rig.billing("shadow", "end", "--keep", code=1)
    for name in ("notifications", "stripe_calls"):  # the age limit of their tries counts from the release
        assert await rig.connection.fetchval(f"SELECT now() - queued_at < interval '1 hour' FROM billing.{name}")
    await settle(rig.settings, rig.config)
    assert len(rig.mailbox.messages) == 1
    recorded = await rig.connection.fetch("SELECT action, count FROM billing.audit_log ORDER BY entry_id")
    assert [tuple(row) for row in recorded] == [("shadow.begin", None), ("shadow.end", 3), *[("shadow.end", None)] * 2]


def written(folder: str) -> list[Path]:
    return list(Path(folder).glob("*"))


OLD = """\
stripe_id,tier,active,mail
cus_same,PRO,yes,Same@Example.com
cus_plan,basic,1,plan@example.com
cus_access,PRO,true,access@example.com
cus_gone,PRO,true,gone@example.com
,PRO,true,none@example.com
cus_same,basic,no,x@example.com
"""


async def test_the_state_is_compared_with_the_old_systems(rig: Rig, tmp_path: Path) -> None:
    await rig.billing("shadow", "begin")
    state = known()
    for name, has_access in (("same", True), ("plan", True), ("access", False), ("new", True)):
        id_ = f"cus_{name}"
        state.save(Customer(account="", customer_id=id_, email=f"{name}@example.com"))
        organization = Organization(
            organization_id=Organization.id_of("", id_), account="", customer_id=id_, name=name, plan="pro",
            has_access=has_access,
        )  # fmt: skip
        state.save(organization)
        state.save(
            Subscription(account="", subscription_id=f"sub_{name}", customer_id=id_, status=SubscriptionStatus.ACTIVE)
        )
    async with rig.store.transaction([]) as transaction:
        await transaction.flush(Flush(state))
    file = tmp_path / "old.csv"
    file.write_text(OLD)
    mapping = ["--key", "customer_id=stripe_id", "--column", "plan=tier", "--column", "has_access=active"]
    mapping += ["--column", "email=mail", "--value", "plan:PRO=pro"]

    found = orjson.loads(await rig.billing("shadow", "report", "--json", "--against", str(file), *mapping, code=1))
    compared = found["compared"]
    assert {one["key"]: (one["fields"], one["missing"]) for one in compared["differences"]} == {
        "cus_access": ({"has_access": ["true", False]}, None),
        "cus_gone": ({}, "this system"),
        "cus_new": ({}, "the old system"),
        "cus_plan": ({"plan": ["basic", "pro"]}, None),
    }
    assert (compared["rows"], compared["same"], compared["without_key"], compared["repeated"]) == (5, 1, 1, 1)
    assert "4 rows differ" in await rig.billing("shadow", "report", "--against", str(file), *mapping, code=1)

    await rig.connection.execute("CREATE TABLE public.old_subscriptions (id text, state text)")
    await rig.connection.execute(
        "INSERT INTO public.old_subscriptions SELECT subscription_id, 'running' FROM billing.subscriptions"
    )
    table = ["--against-table", "old_subscriptions", "--key", "subscription_id=id", "--column", "status=state"]
    assert "4 rows differ" in await rig.billing("shadow", "report", *table, code=1)
    agreed = await rig.billing("shadow", "report", *table, "--value", "status:running=active")
    assert "the states agree" in agreed
    wrong = await rig.billing("shadow", "report", *table[:4], "--column", "status=nothing", code=1)
    assert "has no column nothing; it has id, state" in wrong
    await rig.billing("shadow", "report", "--against-table", 'x"; DROP TABLE y', "--column", "plan", code=1)
