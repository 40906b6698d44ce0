"""The mailboxes: each message answered with 250 is stored completely, and faults occur as requested."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from local.stack.mailbox import read_mailbox
from local.stack.ports import free_port, is_free
from local.stack.process import ChildProcess
from tests.faulty_mailbox import FaultyMailbox, MailboxFault
from tests.paths import ROOT


def _message(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "billing@localhost", "ann@example.test", subject
    message.set_content("Grüße, 12 €\n")
    message.add_alternative("<p>Grüße, 12 €</p>", subtype="html")
    return message


async def _send(port: int, subject: str, timeout: float = 30.0) -> None:
    await aiosmtplib.send(_message(subject), hostname="127.0.0.1", port=port, timeout=timeout)


@pytest.fixture
def kept_mail(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The mailbox process of `billing up`: its port and its directory."""
    port, folder = free_port(), tmp_path / "mail"
    command = [sys.executable, "-m", "local.stack.mailbox", "--port", str(port), "--dir", str(folder)]
    process = ChildProcess("mailbox", command, state_dir=tmp_path, cwd=ROOT)
    process.spawn()
    process.wait_until(lambda: not is_free(port), timeout=30)
    yield port, folder
    process.stop()
    assert process.returncode == 0, process.tail()


async def test_each_accepted_message_is_one_file(kept_mail: tuple[int, Path]) -> None:
    """250 means that the message is on disk, in order of arrival, with its body intact, readable by its owner only."""
    port, folder = kept_mail
    for number in range(3):
        await _send(port, f"Beleg №{number}")
    messages = read_mailbox(folder)
    assert [message["Subject"] for message in messages] == ["Beleg №0", "Beleg №1", "Beleg №2"]
    html = messages[0].get_body(("html",))
    assert html is not None
    assert html.get_content().strip() == "<p>Grüße, 12 €</p>"
    assert {os.stat(path).st_mode & 0o077 for path in folder.iterdir()} == {0}  # noqa: PTH116 - one call a file


async def test_faults_are_met_in_order_and_then_mail_flows(mailbox: FaultyMailbox) -> None:
    """421, 550, 451 and then a normal delivery; only the last message is kept."""
    for fault in (MailboxFault.REFUSE_CONNECTION, MailboxFault.REJECT_RECIPIENT, MailboxFault.TRY_LATER):
        mailbox.fail_next(fault)
    with pytest.raises(aiosmtplib.SMTPConnectError):
        await _send(mailbox.port, "refused")
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
        await _send(mailbox.port, "rejected")
    with pytest.raises(aiosmtplib.SMTPDataError) as temporary:
        await _send(mailbox.port, "later")
    assert temporary.value.code == 451
    await _send(mailbox.port, "kept")
    assert [message["Subject"] for message in await mailbox.wait_for(1)] == ["kept"]
    assert mailbox.recipients == [["ann@example.test"]]


async def test_a_server_that_dies_after_data_has_kept_the_message(mailbox: FaultyMailbox) -> None:
    """The client gets no answer, but the message is stored: the client cannot know."""
    mailbox.fail_next(MailboxFault.DIE_AFTER_DATA)
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await _send(mailbox.port, "delivered and denied")
    assert [message["Subject"] for message in mailbox.messages] == ["delivered and denied"]


async def test_a_server_that_hangs_is_left_to_the_clients_timeout(mailbox: FaultyMailbox) -> None:
    """HANG never answers, and stopping the mailbox does not wait for it."""
    mailbox.fail_next(MailboxFault.HANG)
    with pytest.raises(aiosmtplib.SMTPTimeoutError):
        await _send(mailbox.port, "unanswered", timeout=0.5)
    async with asyncio.timeout(30):
        await mailbox.stop()
    assert mailbox.messages == []


async def test_a_stopped_mailbox_comes_back_on_its_port(mailbox: FaultyMailbox) -> None:
    """An outage in a test: connections are refused while it is down, then mail is delivered at the same address."""
    port = mailbox.port
    await mailbox.stop()
    with pytest.raises(aiosmtplib.SMTPConnectError):
        await _send(port, "while down")
    await mailbox.start()
    await _send(port, "after")
    assert len(mailbox.messages) == 1
