"""D8: each queued mail is sent once, whatever the mail server does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from schemas.settings import Mail
from sinks.email.delivery import TRIES
from sinks.email.metrics import MailMetrics
from tests.faulty_mailbox import FaultyMailbox, MailboxFault
from tests.kits.mailkit import CONFIG, MailOutboxKit, open_kit
from tests.waiting import eventually


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[MailOutboxKit]:
    async with open_kit(database) as opened:
        yield opened


async def test_a_mail_is_sent_once(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Its row is marked `sent`, and it is not sent again."""
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="sent")
        desk.clock.move(days=2)
        await desk.queue("b")
        await desk.until("b", status="sent")
    assert [str(message["To"]) for message in mailbox.messages] == ["a@example.com", "b@example.com"]
    assert row["message_id"] == mailbox.messages[0]["Message-ID"]
    assert abs(row["sent_at"] - (desk.clock.now - timedelta(days=2))) < timedelta(seconds=5)
    assert (row["attempts"], row["claimed_by"], row["last_error"]) == (1, None, None)
    assert mailbox.messages[0]["Auto-Submitted"] == "auto-generated"


async def test_a_mail_deferred_is_tried_again_after_its_pause(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """451: it is sent at the time of the back-off table, not before."""
    mailbox.fail_next(MailboxFault.TRY_LATER)
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="queued", attempts=1)
        assert timedelta(seconds=72) <= row["next_attempt_at"] - desk.clock.now <= timedelta(seconds=88)
        assert "451" in row["last_error"]
        desk.clock.move(seconds=60)
        await desk.queue("b")  # a due mail: once it is sent, the dispatcher has checked the queue
        await desk.until("b", status="sent")
        assert len(mailbox.messages) == 1
        desk.clock.move(seconds=30)
        row = await desk.until("a", status="sent")
    assert row["attempts"] == 2
    assert row["last_error"] is None


async def test_after_the_last_try_a_mail_has_failed(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """A server that always defers is given up after the last try."""
    mailbox.fail_next(MailboxFault.TRY_LATER, times=TRIES)
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        for attempt in range(1, TRIES):
            await desk.until("a", status="queued", attempts=attempt)
            desk.clock.move(hours=18)
        row = await desk.until("a", status="failed")
    assert row["last_error"] == f"after {TRIES} tries: 451 4.3.0 try again later"
    assert mailbox.messages == []


async def test_a_refused_mail_fails_at_once(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """550 is permanent. Other mails are sent over the same connection."""
    mailbox.rejected_recipients.add("a@example.com")
    await desk.queue("a")
    await desk.queue("b")
    async with desk.dispatcher(mailbox, senders=1):
        row = await desk.until("a", status="failed")
        await desk.until("b", status="sent")
    assert (row["attempts"], row["last_error"]) == (1, "550 5.1.1 no such mailbox")


async def test_a_hanging_server_is_disconnected(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """The mail is retried over another connection; other mails are not delayed."""
    mailbox.fail_next(MailboxFault.HANG)
    await desk.queue("a")
    async with desk.dispatcher(mailbox, senders=1, step_timeout_s=2.0):
        row = await desk.until("a", status="queued", attempts=1)
        assert row["last_error"] == "no reply within 2 s"
        await desk.queue("b")
        await desk.until("b", status="sent")
        desk.clock.move(minutes=2)
        await desk.until("a", status="sent")
    assert len(mailbox.messages) == 2


async def test_a_server_that_is_down_costs_no_mail_a_try(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Mails wait without a change, /readyz shows the reason, and they are sent once the server is back."""
    await mailbox.stop()
    for number in range(5):
        await desk.queue(f"m{number}")
    async with desk.dispatcher(mailbox) as dispatcher:

        async def has_failed_often() -> bool:
            desk.clock.move(minutes=2)
            return dispatcher._outage.failures >= 4

        await eventually(has_failed_often)
        assert "Connect" in (dispatcher.trouble() or "")
        assert [(row["status"], row["attempts"]) for row in await desk.rows()] == [("queued", 0)] * 5
        await mailbox.start()

        async def are_sent() -> bool:
            found = {row["status"] for row in await desk.rows()}
            if "sending" not in found:  # a claim would expire
                desk.clock.move(minutes=2)  # one more try may fail and start a pause at this time
            return found == {"sent"}

        await eventually(are_sent)
        assert dispatcher.trouble() is None
    assert [row["attempts"] for row in await desk.rows()] == [1] * 5
    assert len(mailbox.messages) == 5


async def test_a_server_that_closes_down_in_the_greeting_is_down(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """421 is about the server, not about a mail."""
    mailbox.fail_next(MailboxFault.REFUSE_CONNECTION, times=2)
    await desk.queue("a")
    async with desk.dispatcher(mailbox, senders=1):

        async def is_sent() -> bool:
            desk.clock.move(minutes=2)
            return bool((await desk.row("a"))["status"] == "sent")

        await eventually(is_sent)
    assert mailbox.met == [MailboxFault.REFUSE_CONNECTION] * 2
    assert (await desk.row("a"))["attempts"] == 1


async def test_a_server_that_takes_a_mail_and_dies_gets_it_twice_at_most(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    """The client cannot know that it was accepted. Both copies have one Message-ID, so the receiver can drop one."""
    mailbox.fail_next(MailboxFault.DIE_AFTER_DATA)
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        await desk.until("a", status="queued", attempts=1)
        desk.clock.move(minutes=2)
        await desk.until("a", status="sent")
        desk.clock.move(days=1)
        await desk.queue("b")
        await desk.until("b", status="sent")
    ids = [message["Message-ID"] for message in mailbox.messages if message["To"] == "a@example.com"]
    assert len(ids) == 2
    assert len(set(ids)) == 1


async def test_two_dispatchers_share_the_work(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Each mail is sent once, and both have sent some."""
    for number in range(60):
        await desk.queue(f"m{number:02d}")
    async with desk.dispatcher(mailbox, claimer="one"), desk.dispatcher(mailbox, claimer="two"):
        await desk.until_all("sent")
    counts = Counter(str(message["To"]) for message in mailbox.messages)
    assert len(counts) == 60
    assert set(counts.values()) == {1}


async def test_no_mail_is_claimed_twice_at_once(desk: MailOutboxKit) -> None:
    """Many claims at the same moment, all for the same oldest mails: each mail has one holder."""
    for number in range(40):
        await desk.queue(f"m{number:02d}")
    async with desk.outbox("one") as one, desk.outbox("two") as two:
        outboxes = (one, two) * 4
        await asyncio.gather(*(outbox.has_due() for outbox in outboxes))  # all are connected now
        claims = await asyncio.gather(*(outbox.claim(4) for outbox in outboxes))
        keys = [mail.key for claim in claims for mail in claim]
        assert len(keys) == len(set(keys))
        assert await one.claim(100)
    assert {row["attempts"] for row in await desk.rows()} == {1}


async def test_claims_of_a_dead_dispatcher_are_taken_over(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Not while it may still be alive; then by any dispatcher. A late result of the dead one changes nothing."""
    await desk.queue("a")
    async with desk.outbox("dead") as dead:
        (claimed,) = await dead.claim(10)
        async with desk.dispatcher(mailbox):
            desk.clock.move(minutes=9)
            await desk.queue("b")
            await desk.until("b", status="sent")
            assert (await desk.row("a"))["claimed_by"] == "dead"
            desk.clock.move(minutes=2)
            row = await desk.until("a", status="sent")
        assert not await dead.retry(claimed, timedelta(0), "late")
        assert not await dead.done(claimed, {"message_id": "<late@example.com>"})
    assert row["attempts"] == 2
    assert await desk.row("a") == row
    assert len(mailbox.messages) == 2


async def test_a_mail_that_kills_dispatchers_ends_as_failed(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Each claim counts as a try, so a crash loop has an end."""
    await desk.queue("a", attempts=TRIES)
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="failed")
    assert "the last one has no result" in row["last_error"]


async def test_a_sent_mail_is_marked_as_soon_as_postgres_allows_it(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Postgres refuses only the update to `sent` for a while: the mail is not sent again."""
    await desk.connection.execute("""
        CREATE FUNCTION not_now() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the database system is shutting down' USING ERRCODE = '57P03'; END $$;
        CREATE TRIGGER not_now BEFORE UPDATE ON billing.emails FOR EACH ROW WHEN (NEW.status = 'sent')
        EXECUTE FUNCTION not_now();
    """)
    await desk.queue("a")
    async with desk.dispatcher(mailbox) as dispatcher:

        async def has_met_it() -> bool:
            return "shutting down" in (dispatcher.outbox_trouble() or "")

        await mailbox.wait_for(1)
        await eventually(has_met_it)
        assert (await desk.row("a"))["status"] == "sending"
        await desk.connection.execute("DROP TRIGGER not_now ON billing.emails")
        await desk.until("a", status="sent")
    assert len(mailbox.messages) == 1


async def test_a_mail_waits_for_its_customers_address(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """The customer's own event may come later. Waiting does not count as a try."""
    await desk.queue("a", recipient=None, customer_id="cus_1")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="queued", last_error="the customer's address is not known yet")
        assert row["attempts"] == 0
        await desk.connection.execute(
            "INSERT INTO billing.customers (account, customer_id, email, locale) VALUES ('', 'cus_1', $1, 'de')",
            "jane@example.com",
        )
        desk.clock.move(minutes=5)
        row = await desk.until("a", status="sent")
    assert (row["recipient"], row["attempts"]) == ("jane@example.com", 1)
    assert "Zahlungsbeleg" in mailbox.messages[0]["Subject"]


async def test_the_address_of_a_customer_without_events_is_asked_of_stripe_once(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    """Customers older than this system have no event with an address. Others get one soon, so the call is delayed."""
    calls = "SELECT call_key, event_id, account, customer_id, livemode, method, path, status FROM billing.stripe_calls"
    waits = {"status": "queued", "last_error": "the customer's address is not known yet", "attempts": 0}
    for key, who in (("a", "cus_1"), ("b", "cus_1"), ("c", None)):
        await desk.queue(key, recipient=None, account="acct_7", customer_id=who)
    async with desk.dispatcher(mailbox):
        for key in "abc":
            await desk.until(key, **waits)
        assert await desk.connection.fetch(calls) == []
        for later in ("one", "two", "three"):
            desk.clock.move(hours=1)
            await desk.queue(later)  # due after the others: once it is sent, they have been checked
            await desk.until(later, status="sent")
    (call,) = await desk.connection.fetch(calls)
    assert dict(call) == {
        "call_key": "recipient:acct_7:cus_1",
        "event_id": "evt_1",
        "account": "acct_7",
        "customer_id": "cus_1",
        "livemode": True,
        "method": "GET",
        "path": "/v1/customers/cus_1",
        "status": "queued",
    }


async def test_a_mail_without_an_address_fails_after_three_days(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """It is `failed`, so an operator sees it."""
    await desk.queue("a", recipient=None)
    async with desk.dispatcher(mailbox):
        await desk.until("a", status="queued", last_error="the customer's address is not known yet")
        desk.clock.move(hours=72)
        row = await desk.until("a", status="failed")
    assert row["last_error"] == "the customer's address is still unknown after 72 hours"


@pytest.mark.parametrize("setting", [{}, {"send_test_mode": False}, {"send_test_mode": True}])
async def test_mails_of_test_mode_leave_only_if_allowed(
    desk: MailOutboxKit, mailbox: FaultyMailbox, setting: dict[str, bool]
) -> None:
    """The setting is off by default; a mail that is held back is not a failure and raises no alert."""
    allowed = setting.get("send_test_mode", False)
    await desk.queue("a", livemode=False)
    config: Mail = CONFIG.model_copy(update=setting)
    metrics = MailMetrics()
    async with desk.dispatcher(mailbox, config=config, metrics=metrics):
        row = await desk.until("a", status="sent" if allowed else "withheld")
        await desk.queue("b", livemode=True)
        await desk.until("b", status="sent")
    assert len(mailbox.messages) == 1 + allowed
    labels = {"template": "payment-receipt", "outcome": "failed"}
    assert metrics.registry.get_sample_value("billing_emails_settled_total", labels) == 0
    assert ("test mode" in (row["last_error"] or "")) is not allowed


async def test_a_mail_that_cannot_be_composed_fails_alone(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Invalid data, invalid address, no template: each fails with its reason, and the next mail is sent."""
    await desk.queue("address", recipient="x@example.com\r\nBcc: all@example.com")
    await desk.queue("data", data={"amount": {"amount": 1, "currency": "abc"}, "paid_at": "2026-11-23T00:00:00Z"})
    await desk.queue("template", template="no-such-mail")
    await desk.queue("utf8", recipient="用户@example.com")
    await desk.queue("z")
    async with desk.dispatcher(mailbox, senders=1):
        await desk.until("z", status="sent")
        for key, reason in (
            ("address", "white space or control"),
            ("data", "unknown currency abc"),
            ("template", "no template no-such-mail"),
        ):
            assert reason in (await desk.until(key, status="failed"))["last_error"]
        utf8 = await desk.until("utf8", status="failed")
    assert "SMTPUTF8" in utf8["last_error"]
    assert [str(message["To"]) for message in mailbox.messages] == ["z@example.com"]


async def test_stopping_finishes_the_current_mail_and_releases_the_others(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    """No mail stays `sending`, and mails that were not tried lose no try."""
    mailbox.fail_next(MailboxFault.HANG)
    for number in range(4):
        await desk.queue(f"m{number}")
    async with desk.dispatcher(mailbox, senders=1, step_timeout_s=2.0) as dispatcher:

        async def hangs() -> bool:
            return mailbox.met == [MailboxFault.HANG]

        await eventually(hangs)
        dispatcher.stop()
    assert [(row["status"], row["attempts"]) for row in await desk.rows()] == [("queued", 1)] + [("queued", 0)] * 3
    assert mailbox.messages == []


async def test_requeued_mails_leave(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """They get all tries back and keep their Message-ID; only failed mails can be requeued."""
    mailbox.rejected_recipients.add("a@example.com")
    await desk.queue("a")
    await desk.queue("b")
    async with desk.outbox("operator") as operator, desk.dispatcher(mailbox):
        await desk.until("a", status="failed")
        await desk.until("b", status="sent")
        failed = await operator.list(status="failed")
        assert [(row["email_key"], row["last_error"]) for row in failed] == [("a", "550 5.1.1 no such mailbox")]
        mailbox.rejected_recipients.clear()
        assert await operator.requeue(keys=["a", "b", "c"]) == ["a"]
        row = await desk.until("a", status="sent")
    assert row["attempts"] == 1
    assert len(mailbox.messages) == 2


async def test_depth_reports_the_open_mails_and_the_oldest_due_time(desk: MailOutboxKit) -> None:
    """The number of open mails, and the due time of the oldest due one."""
    due_at = desk.clock.now
    await desk.queue("a")
    await desk.queue("b", next_attempt_at=desk.clock.now + timedelta(hours=1))
    await desk.queue("c", status="failed")
    async with desk.outbox() as outbox:
        assert (await outbox.depth()).open == 2
        desk.clock.move(minutes=1)
        assert 60 <= (await outbox.depth()).oldest_due_s < 65
        assert (await outbox.depth()).oldest_queued_at == due_at
        assert await asyncio.gather(*(outbox.claim(1) for _ in range(4)))
        assert (await outbox.depth()).oldest_due_s == 0
