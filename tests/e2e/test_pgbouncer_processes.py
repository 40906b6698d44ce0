"""Worker, dispatcher and scheduler share one server session of a PgBouncer in transaction mode: every mail is sent."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from eventlog.append import EventAppender
from eventlog.entry import Entry
from local.stripe.builder import StripeEvents
from schemas.kafka_access import KafkaAccess
from schemas.record import Source
from tests.faulty_mailbox import FaultyMailbox
from tests.kits import clikit
from tests.kits.pgbouncerkit import needs_pgbouncer, pgbouncer
from tests.kits.storekit import ask
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, needs_pgbouncer]

CUSTOMERS = 500
CONFIG = """
[mail]
sender = "Billing <billing@example.com>"
send_test_mode = true
"""
REFUSED = ("08P01", "42P05", "26000", "Traceback")


def _entries(now: int) -> list[Entry]:
    """1,000 events: each customer is created and subscribes, which sends the welcome mail."""
    entries: list[Entry] = []
    make = StripeEvents()
    for number in range(CUSTOMERS):
        customer = make.customer(f"cus_{number}", email=f"c{number}@example.com", created=now)
        subscription = make.subscription(f"sub_{number}", start=now) | {"customer": f"cus_{number}"}
        events = (
            make.event("customer.created", customer, now),
            make.event("customer.subscription.created", subscription, now + 1),
        )
        received = datetime.now(UTC)
        entries += [Entry.of(one, source=Source.STRIPE, received_at=received, livemode=False) for one in events]
    return entries


async def test_all_mails_are_sent_through_one_server_session(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, mailbox: FaultyMailbox, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    names = ("worker", "dispatcher", "scheduler")
    with ExitStack() as running:
        pooled = running.enter_context(pgbouncer(migrated_url, "transaction", sessions=1))
        env = {
            **os.environ,
            "BILLING_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "BILLING_DATABASE_URL": pooled,
            "BILLING_SMTP_URL": mailbox.url,
            "BILLING_CONFIG": str(tmp_path / "config.toml"),
            "BILLING_TOPIC_PREFIX": topic_prefix,
            "BILLING_STATE_DIR": str(tmp_path),
        }
        made = await asyncio.to_thread(clikit.billing, ["topics"], env)
        assert made.returncode == 0, made.stderr
        for name in names:
            running.enter_context(clikit.running([name], env, tmp_path / f"{name}.log"))
        appender = EventAppender(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.events", client_id="test")
        await appender.append(_entries(int(time.time())))
        await asyncio.to_thread(appender.close)
        url = SecretStr(migrated_url)

        async def is_done() -> bool:
            applied = await ask(url, "SELECT count(*) FROM billing.events WHERE outcome = 'applied'")
            sent = await ask(url, "SELECT count(*) FROM billing.emails WHERE status = 'sent'")
            return (applied, sent) == (2 * CUSTOMERS, CUSTOMERS)

        await eventually(is_done, within_s=150)
        assert await ask(url, "SELECT count(*) FROM billing.emails") == CUSTOMERS
    assert len(mailbox.messages) == CUSTOMERS
    logs = "".join((tmp_path / f"{name}.log").read_text() for name in names)
    assert [word for word in REFUSED if word in logs] == []
