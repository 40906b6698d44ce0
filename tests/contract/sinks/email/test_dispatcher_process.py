"""`billing dispatcher` and `billing mail` as processes: signals, HTTP endpoints, exit codes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import aiohttp
import orjson
import pytest
from pydantic import SecretStr

from local.stack.ports import free_port
from schemas.mail import LANGUAGES, MAILS
from sinks.email.dispatcher import MailPace
from sinks.outbox import setback
from sinks.outbox.wakeup import listen
from sinks.postgres.outboxes import EMAILS
from tests.faulty_mailbox import FaultyMailbox, MailboxFault
from tests.kits import clikit
from tests.kits.mailkit import MailOutboxKit, open_kit
from tests.waiting import eventually


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[MailOutboxKit]:
    async with open_kit(database) as opened:
        opened.clock.now = datetime.now(UTC)  # processes use the real clock
        yield opened


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "billing.toml"
    path.write_text('[mail]\nsender = "Acme <billing@example.com>"\noperator = "ops@example.com"\n')
    return path


def _environment(desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:1",  # not used here
        "BILLING_DATABASE_URL": desk.url.get_secret_value(),
        "BILLING_SMTP_URL": mailbox.url,
        "BILLING_CONFIG": str(config),
        **more,
    }


@contextmanager
def _dispatcher(config: Path, env: dict[str, str]) -> Iterator[clikit.ForkedProcess]:
    with clikit.running(["dispatcher"], env, _log_of(config)) as process:
        yield process


def _log_of(config: Path) -> Path:
    return config.with_name("dispatcher.log")


async def _billing(*arguments: str, env: dict[str, str]) -> tuple[int, str, str]:
    done = await asyncio.to_thread(clikit.billing, arguments, env)
    return done.returncode, done.stdout, done.stderr


async def _get(port: int, path: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError:
        return 0, ""


async def test_the_process_sends_logs_and_stops(desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path) -> None:
    """One wide line per mail without address or content; /livez, /readyz, /metrics; exit code 0 on SIGTERM."""
    port = free_port()
    await desk.queue("receipt", recipient="jane.doe@example.com")
    env = _environment(desk, mailbox, config, BILLING_OPS_PORT=str(port))
    with _dispatcher(config, env) as process:
        await desk.until("receipt", status="sent")

        async def is_counted() -> bool:
            _, text = await _get(port, "/metrics")
            return 'billing_emails_settled_total{outcome="sent",template="payment-receipt"} 1.0' in text

        await eventually(is_counted)
        assert (await _get(port, "/livez"))[0] == 200
        assert (await _get(port, "/readyz"))[0] == 200
        await mailbox.stop()
        await desk.queue("waiting")

        async def is_not_ready() -> bool:
            status, text = await _get(port, "/readyz")
            return status == 503 and "SMTPConnectError" in text

        await eventually(is_not_ready)
        assert (await _get(port, "/livez"))[0] == 200  # a restart would not help
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    err = _log_of(config).read_text()
    lines = [orjson.loads(line) for line in err.splitlines()]
    (sent,) = (line for line in lines if line["action"] == "email.sent")
    assert (sent["key"], sent["template"], sent["attempt"]) == ("receipt", "payment-receipt", 1)
    assert sent["to"] == "j***@example.com"
    assert sent["ms"] > 0
    assert "jane.doe" not in err
    assert "F3A1C2D4" not in err
    assert (await desk.row("waiting"))["attempts"] == 0


async def test_T11_nothing_leaves_a_database_that_was_restored_until_a_worker_has_noticed(
    desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path
) -> None:
    """A backup brings back earlier positions, and mails as queued that have left. All sessions are cut."""
    port = free_port()
    await desk.connection.execute(
        "INSERT INTO billing.positions (consumer_group, topic, partition, next_offset, topic_id, updated_at) "
        "SELECT 'billing.worker', 'billing.events', p, 40, 'topic', now() FROM generate_series(0, 11) p"
    )
    await desk.queue("receipt")
    with _dispatcher(config, _environment(desk, mailbox, config, BILLING_OPS_PORT=str(port))) as process:
        await desk.until("receipt", status="sent")
        async with desk.connection.transaction():
            await desk.connection.execute("UPDATE billing.positions SET next_offset = 20 WHERE partition < 6")
            await desk.connection.execute(
                "UPDATE billing.emails SET status = 'queued', attempts = 0, sent_at = NULL, next_attempt_at = now()"
            )
            await desk.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await desk.queue("new")

        async def waits() -> bool:
            status, text = await _get(port, "/readyz")
            return status == 503 and setback.REASON in text

        await eventually(waits)
        assert len(mailbox.messages) == 1
        # What a worker does that notices: it withholds what may have left, and reads again.
        async with desk.connection.transaction():
            await desk.connection.execute("UPDATE billing.positions SET reread_until = 40 WHERE partition < 6")
            await desk.connection.execute("UPDATE billing.emails SET status = 'withheld' WHERE email_key = 'receipt'")
        await desk.until("new", status="sent")
        assert process.returncode is None
    assert [message["To"] for message in mailbox.messages] == ["receipt@example.com", "new@example.com"]


async def test_the_mail_of_a_killed_process_is_sent_once(
    desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path
) -> None:
    """kill -9 during an SMTP session: the mail is sent once its claim has expired, and only once."""
    mailbox.fail_next(MailboxFault.HANG)
    await desk.queue("a")
    with _dispatcher(config, _environment(desk, mailbox, config)) as process:

        async def hangs() -> bool:
            return mailbox.met == [MailboxFault.HANG]

        await eventually(hangs)
        process.kill()
        await asyncio.to_thread(process.wait, 30)
    assert (await desk.row("a"))["status"] == "sending"
    desk.clock.now = datetime.now(UTC) + timedelta(minutes=11)
    async with desk.dispatcher(mailbox):
        row = await desk.until("a", status="sent")
    assert row["attempts"] == 2
    assert len(mailbox.messages) == 1


async def test_a_notification_ends_the_wait(desk: MailOutboxKit, mailbox: FaultyMailbox) -> None:
    """With a poll interval of a minute, a mail is still sent at once."""
    lazy = MailPace(poll_s=60.0)
    async with desk.dispatcher(mailbox, senders=1, pace=lazy) as dispatcher:
        listening = asyncio.create_task(listen(desk.url, EMAILS.channel, dispatcher.wake))
        try:
            for number in range(3):
                await desk.queue(f"m{number}")
                await desk.until(f"m{number}", status="sent")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    assert len(mailbox.messages) == 3


async def test_an_operator_sees_and_requeues(desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path) -> None:
    """`ls` shows failed mails with their reason; `requeue` queues them again and reports those it could not."""
    env = _environment(desk, mailbox, config)
    await desk.queue("lost", status="failed", attempts=8, last_error="550 5.1.1 no such mailbox")
    gone = f"receipt::in_{'1NG8Du2eZvKYlo2CUI79vXWy' * 3}"
    await desk.queue(gone, status="sent")
    code, out, _ = await _billing("mail", "ls", "--json", env=env)
    (row,) = (orjson.loads(line) for line in out.splitlines())
    assert code == 0
    assert (row["email_key"], row["attempts"], row["last_error"]) == ("lost", 8, "550 5.1.1 no such mailbox")
    assert "data" not in row
    code, out, _ = await _billing("mail", "ls", "--all", env=env)
    assert code == 0
    assert "lost" in out
    assert gone in out
    code, out, err = await _billing("mail", "requeue", "lost", gone, env=env)
    assert (code, out) == (1, "lost\n")
    assert f"not a failed mail: {gone}" in err
    assert [(row["status"], row["attempts"]) for row in await desk.rows()] == [("queued", 0), ("sent", 0)]
    code, out, _ = await _billing("mail", "ls", env=env)
    assert (code, out) == (0, "no failed mails\n")
    assert (await _billing("mail", "requeue", env=env))[0] == 2


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("BILLING_SMTP_URL", "http://u:hunter2@x", "BILLING_SMTP_URL"),
        ("BILLING_DATABASE_URL", "mysql://u:hunter2@x/y", "BILLING_DATABASE_URL"),
    ],
)
async def test_a_bad_setting_is_one_line(
    desk: MailOutboxKit, mailbox: FaultyMailbox, config: Path, setting: str, value: str, error: str
) -> None:
    """Exit code 2 and the setting's name, without the password."""
    code, _, err = await _billing("dispatcher", env=_environment(desk, mailbox, config) | {setting: value})
    assert code == 2
    assert error in err
    assert "hunter2" not in err
    assert len(err.splitlines()) == 1


async def test_previews_are_written(tmp_path: Path) -> None:
    """Every mail in each language, as HTML, text and a whole message; no setting is needed."""
    out = tmp_path / "previews"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    code, out_text, err = await _billing("mail", "preview", "--out", str(out), env=bare)
    assert (code, err) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == {
        f"{mail}.{locale}.{kind}" for mail in MAILS for locale in sorted(LANGUAGES) for kind in ("html", "txt", "eml")
    }
    assert out_text == f"{len(names)} files in {out}\n"
    message = message_from_bytes((out / "win-back.de.eml").read_bytes(), policy=default)
    assert "List-Unsubscribe" in message
