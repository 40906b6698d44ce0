"""One recipient's trouble is that mail's trouble; a refusal that is about us pauses all mails and fails none (D8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from sinks.email.delivery import TRIES
from sinks.email.dispatcher import Dispatcher
from sinks.email.metrics import MailMetrics
from sinks.email.smtp import SmtpLink, helo_name, parse_smtp_url
from sinks.outbox.refusals import answer_of
from tests.faulty_mailbox import FaultyMailbox, MailboxFault
from tests.kits.mailkit import MailOutboxKit, open_kit
from tests.waiting import eventually

RELAY = "554 5.7.1 <{}>: Relay access denied"


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[MailOutboxKit]:
    async with open_kit(database) as opened:
        yield opened


async def until_sent(desk: MailOutboxKit, count: int, *, seconds: float = 0.0) -> None:
    """Wait until `count` mails are sent. The clock moves by `seconds` at each look that shows no progress.

    A slow machine takes more looks: if each moved the clock, its mails would leave at a later time of the clock.
    """
    before: list[object] = []

    async def are_sent() -> bool:
        rows = [(row["status"], row["attempts"], row["last_error"]) for row in await desk.rows()]
        if rows == before:
            desk.clock.move(seconds=seconds)
        before[:] = rows
        return [status for status, *_ in rows].count("sent") >= count

    await eventually(are_sent, within_s=90.0)


@pytest.mark.parametrize("others", [4, 40])
@pytest.mark.parametrize("answer", ["421 4.7.0 try again later", "535 5.7.8 no", "530 5.7.0 no", "554 5.7.1 no relay"])
async def test_D8_one_recipients_answer_stops_no_other_mail(
    desk: MailOutboxKit, mailbox: FaultyMailbox, answer: str, others: int
) -> None:
    """Also an answer that ends the connection. It counts as tries of that mail, which fails after the last one."""
    mailbox.rcpt_answers["culprit@example.com"] = answer
    await desk.queue("culprit")
    for number in range(others):
        await desk.queue(f"m{number:02d}")
    async with desk.dispatcher(mailbox, senders=4) as dispatcher:
        await until_sent(desk, others)
        assert dispatcher.trouble() is None
        for attempt in range(1, TRIES):
            await _moved_until(desk, "culprit", attempt)
        row = await _moved_until(desk, "culprit", TRIES)
    assert row["status"] == "failed"
    assert answer in row["last_error"]


async def _moved_until(desk: MailOutboxKit, key: str, attempts: int) -> dict[str, Any]:
    async def is_so() -> bool:
        row = await desk.row(key)
        if row["attempts"] < attempts or row["status"] == "sending":
            if row["status"] == "queued":
                desk.clock.now = max(desk.clock.now, row["next_attempt_at"] + timedelta(seconds=1))
            return False
        return True

    await eventually(is_so)
    return await desk.row(key)


@pytest.mark.parametrize("answer", [RELAY, "504 5.5.2 <{}>: Helo command rejected", "550 not allowed to send"])
async def test_D8_a_refusal_of_all_mails_pauses_them_and_fails_none(
    desk: MailOutboxKit, mailbox: FaultyMailbox, answer: str
) -> None:
    mailbox.rcpt_answer_to_all = answer
    for number in range(50):
        await desk.queue(f"m{number:02d}")
    metrics = MailMetrics()
    async with desk.dispatcher(mailbox, senders=4, metrics=metrics) as dispatcher:

        async def has_paused_often() -> bool:
            desk.clock.move(seconds=20)
            return dispatcher._outage.failures >= 4

        await eventually(has_paused_often)
        assert answer_of(answer) in (dispatcher.trouble() or "")
        assert "@" not in (dispatcher.trouble() or "")
        assert metrics.registry.get_sample_value("billing_emails_refused") == 1
        assert {(row["status"], row["attempts"]) for row in await desk.rows()} <= {("queued", 0), ("sending", 1)}
        mailbox.rcpt_answer_to_all = None
        await until_sent(desk, 50, seconds=20)
        assert dispatcher.trouble() is None
    assert len(mailbox.messages) == 50
    assert {row["attempts"] for row in await desk.rows()} == {1}


@pytest.mark.parametrize("answer", ["550 5.1.1 no such mailbox", "550 no such user", "554 5.7.1 <{}>: blocked"])
async def test_D8_true_bounces_among_other_mails_fail_without_a_pause(
    desk: MailOutboxKit, mailbox: FaultyMailbox, answer: str
) -> None:
    for key in ("m03", "m04", "m05"):
        mailbox.rcpt_answers[f"{key}@example.com"] = answer
    for number in range(50):
        await desk.queue(f"m{number:02d}")
    async with desk.dispatcher(mailbox, senders=4) as dispatcher:
        await until_sent(desk, 47)

        async def have_failed() -> bool:
            desk.clock.move(seconds=1)
            return [row["status"] for row in await desk.rows()].count("failed") == 3

        await eventually(have_failed)
        assert {(await desk.row(key))["attempts"] for key in ("m03", "m04", "m05")} == {1}
        assert (dispatcher._outage.failures, dispatcher.trouble()) == (0, None)


async def test_D8_one_mails_wording_does_not_delay_the_others(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Forty mails of one template are refused as spam, and receipts are queued after them."""
    start = desk.clock.now
    for number in range(40):
        mailbox.rcpt_answers[f"s{number:02d}@example.com"] = "554 5.7.1 looks like spam"
        await desk.queue(f"s{number:02d}", template="churn-survey")
    for number in range(10):
        await desk.queue(f"r{number:02d}", queued_at=desk.clock.now + timedelta(seconds=1))
    async with desk.dispatcher(mailbox, senders=4):
        await until_sent(desk, 10, seconds=1)
        receipts = [row for row in await desk.rows() if row["template"] == "payment-receipt"]
        assert max(row["sent_at"] for row in receipts) - start < timedelta(seconds=60)
    assert len(mailbox.messages) == 10


async def test_D8_a_restart_while_all_mails_are_refused_fails_none(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """Nor does a relay that accepts only mails to the team."""
    for number in range(12):
        mailbox.rcpt_answers[f"m{number:02d}@d{number:02d}.example"] = RELAY
        await desk.queue(f"m{number:02d}", recipient=f"m{number:02d}@d{number:02d}.example")
    for restart in range(3):
        await desk.queue(f"op{restart}", template="operator-alert", recipient=None)
        async with desk.dispatcher(mailbox, senders=4, claimer=f"run{restart}") as dispatcher:

            async def has_paused_often(dispatcher: Dispatcher = dispatcher) -> bool:
                desk.clock.move(seconds=20)
                return dispatcher._outage.failures >= 3

            await eventually(has_paused_often)
            await until_sent(desk, restart + 1, seconds=5)
            assert dispatcher.trouble() is not None
    assert {row["status"] for row in await desk.rows() if row["email_key"].startswith("m")} <= {"queued", "sending"}
    mailbox.rcpt_answers.clear()
    async with desk.dispatcher(mailbox, senders=4, claimer="last"):
        await until_sent(desk, 15, seconds=60)


async def test_D8_requeued_mails_can_be_chosen_by_the_answer(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    await desk.queue("bounce", status="failed", last_error="550 5.1.1 no such mailbox")
    await desk.queue("relay", status="failed", last_error="554 5.7.1 Relay access denied")
    async with desk.outbox("operator") as operator:
        assert await operator.requeue(keys=None, answer="RELAY access") == ["relay"]
    assert (await desk.row("relay"))["last_error"] is None


async def test_D8_the_mails_of_one_customer_leave_in_the_order_in_which_they_were_queued(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    """Four lanes, 100 customers with 3 mails each. A later mail waits for the retry of an earlier one."""
    mailbox.fail_next(MailboxFault.TRY_LATER, times=3)
    for customer in range(100):
        for number in range(3):
            await desk.queue(
                f"{'cba'[number]}-{customer}",  # the order of the keys is not that of the mails
                recipient=f"c{customer}-{number}@example.com",
                customer_id=f"cus_{customer}",
                queued_at=desk.clock.now - timedelta(seconds=3 - number),
            )
    async with desk.dispatcher(mailbox, senders=4):
        await until_sent(desk, 291)
        await until_sent(desk, 300, seconds=90)
    order: dict[str, list[str]] = {}
    for message in mailbox.messages:
        customer_part, _, number_part = str(message["To"]).partition("@")[0].partition("-")
        order.setdefault(customer_part, []).append(number_part)
    assert len(order) == 100
    assert {tuple(numbers) for numbers in order.values()} == {("0", "1", "2")}


async def test_D8_a_mail_with_an_address_does_not_wait_for_one_without(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    await desk.queue("first", recipient=None, customer_id="cus_1", queued_at=desk.clock.now - timedelta(seconds=9))
    await desk.queue("second", customer_id="cus_1")
    async with desk.dispatcher(mailbox):
        await desk.until("second", status="sent")
    assert (await desk.row("first"))["status"] == "queued"


@pytest.mark.parametrize("apart", [timedelta(seconds=660), timedelta(days=1), -timedelta(seconds=660)])
async def test_D8_dispatchers_whose_clocks_differ_send_each_mail_once(
    desk: MailOutboxKit, mailbox: FaultyMailbox, apart: timedelta
) -> None:
    """Due times and claims are Postgres' own: no claim is lost, and no time is in the future."""
    now = datetime.now(UTC)
    for number in range(20):
        await desk.queue(f"m{number:02d}", queued_at=now, next_attempt_at=now)
    metrics = MailMetrics()
    async with (
        desk.dispatcher(mailbox, claimer="one", is_real_time=True, local_clock_ahead=apart, metrics=metrics),
        desk.dispatcher(mailbox, claimer="two", is_real_time=True),
    ):
        await until_sent(desk, 20)
    assert sorted(str(message["To"]) for message in mailbox.messages) == [f"m{n:02d}@example.com" for n in range(20)]
    assert {row["attempts"] for row in await desk.rows()} == {1}
    late = "SELECT count(*) FROM billing.emails WHERE sent_at > now() OR next_attempt_at > now() + interval '11 min'"
    assert await desk.connection.fetchval(late) == 0


async def test_the_name_in_EHLO_can_be_set(mailbox: FaultyMailbox) -> None:
    link = SmtpLink(parse_smtp_url(mailbox.url), helo_name="mail.example.com")
    await link.ensure()
    await link.close()
    assert mailbox.helo_names == ["mail.example.com"]


@pytest.mark.parametrize(
    ("setting", "host", "name"),
    [
        ("mx.acme.com", "billing.acme.com", "mx.acme.com"),
        (None, "billing.acme.com", "billing.acme.com"),
        (None, "vm", "acme.com"),
        (None, "localhost.localdomain", "acme.com"),
        (None, "172.17.0.2", "acme.com"),
    ],
)
def test_the_name_in_EHLO_has_a_dot(setting: str | None, host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: host)
    assert helo_name(setting, "acme.com") == name
