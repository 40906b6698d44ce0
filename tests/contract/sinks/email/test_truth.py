"""A mail is checked right before it leaves: sent as it is, sent with data that is true now, or withheld."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from sinks.email.message import QueuedMail
from sinks.email.metrics import MailMetrics
from sinks.email.present import Present
from sinks.email.samples import SAMPLES
from sinks.email.truth import MailTruth
from sinks.outbox.truth import Answer
from sinks.outbox.verdicts import Withheld
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.mailkit import CONFIG, MailOutboxKit, open_kit

TEMPLATE = "payment-receipt"


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[MailOutboxKit]:
    async with open_kit(database) as opened:
        yield opened


async def test_an_untrue_mail_is_withheld_with_its_reason(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """It is not a failure, is not sent later, and only an operator who names it can requeue it."""

    async def is_paid(mail: QueuedMail, present: Present) -> Answer:
        customer = await present.customer()
        return Withheld(f"the invoice of {mail.key} has been paid") if customer is None and mail.key == "a" else None

    metrics = MailMetrics()
    await desk.queue("a")
    await desk.queue("b")
    async with desk.dispatcher(mailbox, checks={TEMPLATE: is_paid}, metrics=metrics):
        row = await desk.until("a", status="withheld")
        await desk.until("b", status="sent")
        async with desk.outbox("operator") as operator:
            assert await operator.requeue(keys=None) == []
            assert await operator.requeue(keys=["a"]) == ["a"]
        await desk.until("a", status="withheld")
    assert (row["last_error"], row["claimed_by"]) == ("the invoice of a has been paid", None)
    assert [str(message["To"]) for message in mailbox.messages] == ["b@example.com"]
    counted = {
        outcome: metrics.registry.get_sample_value(
            "billing_emails_settled_total", {"template": TEMPLATE, "outcome": outcome}
        )
        for outcome in ("withheld", "failed")
    }
    assert counted == {"withheld": 2, "failed": 0}


async def test_a_mail_is_sent_with_the_data_that_is_true_now(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    async def refreshed(mail: QueuedMail, _present: Present) -> Answer:
        data: dict[str, Any] = dict(mail.data)
        return data | {"amount": {"amount": 4711, "currency": "usd"}}

    await desk.queue("a")
    async with desk.dispatcher(mailbox, checks={TEMPLATE: refreshed}):
        await desk.until("a", status="sent")
    assert "47.11" in str(mailbox.messages[0])


async def test_a_mail_that_is_switched_off_is_withheld(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """F4, G32: the others are sent."""
    await desk.queue("a")
    await desk.queue("b", template="operator-alert")
    async with desk.dispatcher(mailbox, config=CONFIG.model_copy(update={"off": (TEMPLATE,)})):
        row = await desk.until("a", status="withheld")
        await desk.until("b", status="sent")
    assert row["last_error"] == "switched off: mail.off"


async def test_the_address_and_the_names_are_those_of_now(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """59, G13: the customer has corrected the address since the invoice, and every mail names the organization."""
    await desk.connection.execute(
        "INSERT INTO billing.customers (account, customer_id, email, name) "
        "VALUES ('', 'cus_a', 'new@example.com', 'Ann')"
    )
    await desk.connection.execute(
        "INSERT INTO billing.organizations (organization_id, account, customer_id, name, status) "
        "VALUES ('org_a', '', 'cus_a', 'Ann & Sons', 'active')"
    )
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="sent")
    body = mailbox.messages[0].get_body(("plain",))
    assert body is not None
    assert str(mailbox.messages[0]["To"]) == row["recipient"] == "new@example.com"
    assert "Hello Ann," in body.get_content()
    assert "Organization: Ann & Sons" in body.get_content()


async def test_a_check_that_fails_fails_its_mail_only(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    async def broken(mail: QueuedMail, _present: Present) -> Answer:
        if mail.key == "a":
            raise LookupError("no such invoice")
        return None

    await desk.queue("a")
    await desk.queue("b")
    async with desk.dispatcher(mailbox, checks={TEMPLATE: broken}, senders=1):
        row = await desk.until("a", status="failed")
        await desk.until("b", status="sent")
    assert row["last_error"] == "cannot be checked: LookupError"


async def test_what_changes_after_the_claim_counts(desk: MailOutboxKit) -> None:
    """59, G13: a mail at the end of a claim can leave minutes after it, and `now` is the time of leaving."""
    await desk.connection.execute(
        "INSERT INTO billing.customers (account, customer_id, email) VALUES ('', 'c', 'a@b.c')"
    )
    await desk.queue("a", customer_id="c")
    await desk.queue("b", template="win-back", customer_id="c", queued_at=desk.clock.now + timedelta(seconds=1))
    truth = MailTruth(CONFIG)
    async with desk.outbox() as outbox:
        claimed = await outbox.claim(1)
        mails = [*claimed, replace(claimed[0], key="b", template="win-back", data=SAMPLES["win-back"])]

        async def ask(seconds: float = 0.0) -> list[Any]:
            moved = [replace(mail, clock=(mail.clock or 0.0) - seconds) for mail in mails]
            async with outbox.connection() as connection:
                return list(await truth(moved, connection))

        await desk.connection.execute("UPDATE billing.customers SET email = 'new@b.c', locale = 'de', name = 'Ann'")
        for answer in await ask(480):
            assert (answer["customer_email"], answer["customer_locale"], answer["data"]["name"]) == (
                "new@b.c",
                "de",
                "Ann",
            )
            assert answer["now"] - claimed[0].now == answer["age"] - claimed[0].age >= timedelta(seconds=480)
        await desk.connection.execute("INSERT INTO billing.unsubscribed VALUES ('', 'c', 'win-back', now())")
        receipt, win_back = await ask()
        assert win_back == Withheld("the customer has unsubscribed from these mails")
        assert receipt["customer_email"] == "new@b.c"
        await desk.connection.execute("UPDATE billing.customers SET erased_at = now()")
        assert await ask() == [Withheld("the customer has been erased")] * 2
        await desk.connection.execute("UPDATE billing.customers SET returned_at = now() + interval '1 s'")
        receipt, _ = await ask()
        assert receipt["customer_email"] == "new@b.c"
