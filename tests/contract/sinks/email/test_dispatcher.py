"""D8: each queued mail leaves once, whatever the mail server does."""

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
from tests.faulty_mailbox import Fault, FaultyMailbox
from tests.kits.mailkit import CONFIG, Desk, eventually, open_desk


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[Desk]:
    async with open_desk(database) as opened:
        yield opened


async def test_a_mail_is_sent_once(desk: Desk, mailbox: FaultyMailbox) -> None:
    """And says so in its row; no later look sends it again."""
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="sent")
        desk.clock.move(days=2)
        await desk.queue("b")
        await desk.until("b", status="sent")
    assert [str(message["To"]) for message in mailbox.messages] == ["a@example.com", "b@example.com"]
    assert row["message_id"] == mailbox.messages[0]["Message-ID"]
    assert row["sent_at"] == desk.clock.now - timedelta(days=2)
    assert (row["attempts"], row["claimed_by"], row["last_error"]) == (1, None, None)
    assert mailbox.messages[0]["Auto-Submitted"] == "auto-generated"


async def test_a_mail_deferred_is_tried_again_after_its_pause(desk: Desk, mailbox: FaultyMailbox) -> None:
    """451: not before the timetable says so, and then it leaves."""
    mailbox.fail_next(Fault.TRY_LATER)
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="queued", attempts=1)
        assert timedelta(seconds=72) <= row["next_attempt_at"] - desk.clock.now <= timedelta(seconds=88)
        assert "451" in row["last_error"]
        desk.clock.move(seconds=60)
        await desk.queue("b")  # one that is due, so that the dispatcher has certainly looked
        await desk.until("b", status="sent")
        assert len(mailbox.messages) == 1
        desk.clock.move(seconds=30)
        row = await desk.until("a", status="sent")
    assert row["attempts"] == 2
    assert row["last_error"] is None


async def test_after_the_last_try_a_mail_has_failed(desk: Desk, mailbox: FaultyMailbox) -> None:
    """A server that always defers is not asked for ever."""
    mailbox.fail_next(Fault.TRY_LATER, times=TRIES)
    await desk.queue("a")
    async with desk.dispatcher(mailbox):
        for attempt in range(1, TRIES):
            await desk.until("a", status="queued", attempts=attempt)
            desk.clock.move(hours=18)
        row = await desk.until("a", status="failed")
    assert row["last_error"] == f"after {TRIES} tries: 451 4.3.0 try again later"
    assert mailbox.messages == []


async def test_a_mail_refused_has_failed_at_once(desk: Desk, mailbox: FaultyMailbox) -> None:
    """550: asking again would change nothing. The others go on over the same connection."""
    mailbox.rejected_recipients.add("a@example.com")
    await desk.queue("a")
    await desk.queue("b")
    async with desk.dispatcher(mailbox, senders=1):
        row = await desk.until("a", status="failed")
        await desk.until("b", status="sent")
    assert (row["attempts"], row["last_error"]) == (1, "550 5.1.1 no such mailbox")


async def test_a_server_that_hangs_is_left(desk: Desk, mailbox: FaultyMailbox) -> None:
    """The mail is tried again later, over another connection; others are not held up."""
    mailbox.fail_next(Fault.HANG)
    await desk.queue("a")
    async with desk.dispatcher(mailbox, senders=1):
        row = await desk.until("a", status="queued", attempts=1)
        assert "SMTPReadTimeoutError" in row["last_error"]
        await desk.queue("b")
        await desk.until("b", status="sent")
        desk.clock.move(minutes=2)
        await desk.until("a", status="sent")
    assert len(mailbox.messages) == 2


async def test_a_server_that_is_down_costs_no_mail_a_try(desk: Desk, mailbox: FaultyMailbox) -> None:
    """All wait untouched, /readyz says why, and they leave when it is back."""
    await mailbox.stop()
    for number in range(5):
        await desk.queue(f"m{number}")
    async with desk.dispatcher(mailbox) as dispatcher:

        async def has_failed_often() -> bool:
            desk.clock.move(minutes=2)
            return dispatcher._outage.failures >= 4

        await eventually(has_failed_often)
        assert "Connect" in (dispatcher.mail_server_trouble() or "")
        assert [(row["status"], row["attempts"]) for row in await desk.rows()] == [("queued", 0)] * 5
        await mailbox.start()

        async def are_sent() -> bool:
            desk.clock.move(minutes=2)  # a last try may still fail, and pause from here on
            return {row["status"] for row in await desk.rows()} == {"sent"}

        await eventually(are_sent)
        assert dispatcher.mail_server_trouble() is None
    assert [row["attempts"] for row in await desk.rows()] == [1] * 5
    assert len(mailbox.messages) == 5


async def test_a_server_that_closes_down_in_the_greeting_is_down(desk: Desk, mailbox: FaultyMailbox) -> None:
    """421 is not about any mail."""
    mailbox.fail_next(Fault.REFUSE_CONNECTION, times=2)
    await desk.queue("a")
    async with desk.dispatcher(mailbox, senders=1):

        async def is_sent() -> bool:
            desk.clock.move(minutes=2)
            return bool((await desk.row("a"))["status"] == "sent")

        await eventually(is_sent)
    assert mailbox.met == [Fault.REFUSE_CONNECTION] * 2
    assert (await desk.row("a"))["attempts"] == 1


async def test_a_server_that_takes_a_mail_and_dies_gets_it_twice_at_most(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Nobody can know that it was taken. Both copies bear one Message-ID, so the receiver can drop the second."""
    mailbox.fail_next(Fault.DIE_AFTER_DATA)
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


async def test_two_dispatchers_share_the_work(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Each mail leaves once, and both have sent some."""
    for number in range(60):
        await desk.queue(f"m{number:02d}")
    async with desk.dispatcher(mailbox, claimer="one"), desk.dispatcher(mailbox, claimer="two"):
        await desk.until_all("sent")
    counts = Counter(str(message["To"]) for message in mailbox.messages)
    assert len(counts) == 60
    assert set(counts.values()) == {1}


async def test_no_mail_is_claimed_twice_at_once(desk: Desk) -> None:
    """Many claims at the same moment, all after the same oldest mails: each mail has one holder."""
    for number in range(40):
        await desk.queue(f"m{number:02d}")
    async with desk.outbox("one") as one, desk.outbox("two") as two:
        outboxes = (one, two) * 4
        await asyncio.gather(*(outbox.has_due(desk.clock.now) for outbox in outboxes))  # connected from here on
        claims = await asyncio.gather(*(outbox.claim(desk.clock.now, 4) for outbox in outboxes))
        keys = [mail.key for claim in claims for mail in claim]
        assert len(keys) == len(set(keys))
        assert await one.claim(desk.clock.now, 100)
    assert {row["attempts"] for row in await desk.rows()} == {1}


async def test_claims_of_a_dead_dispatcher_are_taken_over(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Not while it may still be alive; after that by anyone, and the dead one's late word changes nothing."""
    await desk.queue("a")
    async with desk.outbox("dead") as dead:
        (claimed,) = await dead.claim(desk.clock.now, 10)
        async with desk.dispatcher(mailbox):
            desk.clock.move(minutes=9)
            await desk.queue("b")
            await desk.until("b", status="sent")
            assert (await desk.row("a"))["claimed_by"] == "dead"
            desk.clock.move(minutes=2)
            row = await desk.until("a", status="sent")
        assert not await dead.retry(claimed, desk.clock.now, "late")
        assert not await dead.mark_sent(claimed, desk.clock.now, "<late@example.com>", "x@example.com")
    assert row["attempts"] == 2
    assert await desk.row("a") == row
    assert len(mailbox.messages) == 2


async def test_a_mail_that_kills_dispatchers_ends_as_failed(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Each claim counts as a try, so a crash loop has an end."""
    await desk.queue("a", attempts=TRIES)
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="failed")
    assert "dispatcher died" in row["last_error"]


async def test_what_was_sent_is_marked_as_soon_as_postgres_can(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Postgres refuses just the mark for a while: the mail is not sent again."""
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


async def test_a_mail_waits_for_its_customers_address(desk: Desk, mailbox: FaultyMailbox) -> None:
    """The customer's own event may come later. Waiting is no try."""
    await desk.queue("a", recipient=None)
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


async def test_a_customer_whom_events_only_name_is_asked_of_stripe_once(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Who became one before we listened has no event with an address. Not at once: most have, a second later."""
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
            await desk.queue(later)  # due behind the others: once it has left, they have been looked at
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


async def test_a_mail_without_an_address_fails_after_three_days(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Where an operator sees it."""
    await desk.queue("a", recipient=None)
    async with desk.dispatcher(mailbox):
        await desk.until("a", status="queued", last_error="the customer's address is not known yet")
        desk.clock.move(hours=72)
        row = await desk.until("a", status="failed")
    assert row["last_error"] == "the customer's address is still unknown after 72 hours"


@pytest.mark.parametrize("setting", [{}, {"send_test_mode": False}, {"send_test_mode": True}])
async def test_mails_of_test_mode_leave_only_if_allowed(
    desk: Desk, mailbox: FaultyMailbox, setting: dict[str, bool]
) -> None:
    """Who says nothing has not allowed it; and what is kept back is no failure that anyone is called for."""
    allowed = setting.get("send_test_mode", False)
    await desk.queue("a", livemode=False)
    config: Mail = CONFIG.model_copy(update=setting)
    metrics = MailMetrics()
    async with desk.dispatcher(mailbox, config=config, metrics=metrics):
        row = await desk.until("a", status="sent" if allowed else "failed")
        await desk.queue("b", livemode=True)
        await desk.until("b", status="sent")
    assert len(mailbox.messages) == 1 + allowed
    labels = {"template": "payment-receipt", "outcome": "failed"}
    assert metrics.registry.get_sample_value("billing_emails_settled_total", labels) == 0
    assert ("test mode" in (row["last_error"] or "")) is not allowed


async def test_a_mail_that_cannot_be_made_fails_alone(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Bad data, bad address, no template: each with its reason; the next mail leaves."""
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


async def test_stopping_ends_the_mail_in_hand_and_gives_back_the_others(desk: Desk, mailbox: FaultyMailbox) -> None:
    """Nothing is left `sending`, and what was not tried has lost no try."""
    mailbox.fail_next(Fault.HANG)
    for number in range(4):
        await desk.queue(f"m{number}")
    async with desk.dispatcher(mailbox, senders=1) as dispatcher:

        async def hangs() -> bool:
            return mailbox.met == [Fault.HANG]

        await eventually(hangs)
        dispatcher.stop()
    assert [(row["status"], row["attempts"]) for row in await desk.rows()] == [("queued", 1)] + [("queued", 0)] * 3
    assert mailbox.messages == []


async def test_requeued_mails_leave(desk: Desk, mailbox: FaultyMailbox) -> None:
    """With all their tries, under the Message-ID they would have had; and only failed ones can be requeued."""
    mailbox.rejected_recipients.add("a@example.com")
    await desk.queue("a")
    await desk.queue("b")
    async with desk.outbox("operator") as operator, desk.dispatcher(mailbox):
        await desk.until("a", status="failed")
        await desk.until("b", status="sent")
        failed = await operator.list(status="failed")
        assert [(row["email_key"], row["last_error"]) for row in failed] == [("a", "550 5.1.1 no such mailbox")]
        mailbox.rejected_recipients.clear()
        assert await operator.requeue(desk.clock.now, keys=["a", "b", "c"]) == ["a"]
        row = await desk.until("a", status="sent")
    assert row["attempts"] == 1
    assert len(mailbox.messages) == 2


async def test_depth_tells_how_far_behind_we_are(desk: Desk) -> None:
    """Open mails, and since when the oldest due one is due."""
    due_at = desk.clock.now
    await desk.queue("a")
    await desk.queue("b", next_attempt_at=desk.clock.now + timedelta(hours=1))
    await desk.queue("c", status="failed")
    async with desk.outbox() as outbox:
        assert (await outbox.depth(desk.clock.now)).open == 2
        assert (await outbox.depth(desk.clock.now + timedelta(minutes=1))).oldest_due == due_at
        assert await asyncio.gather(*(outbox.claim(desk.clock.now, 1) for _ in range(4)))
        assert (await outbox.depth(desk.clock.now)).oldest_due is None
