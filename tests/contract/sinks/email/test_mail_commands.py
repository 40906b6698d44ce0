"""`billing mail` shows what waits and why, and lets an operator withhold mails or queue them again (D8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from ops.cli import command_line
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.mailkit import MailOutboxKit, open_kit
from tests.waiting import eventually


@pytest.fixture
async def desk(database: SecretStr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[MailOutboxKit]:
    monkeypatch.setenv("BILLING_DATABASE_URL", database.get_secret_value())
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")  # not used here
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    async with open_kit(database) as opened:
        opened.clock.now = datetime.now(UTC)  # commands use Postgres' clock
        yield opened


async def mail(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, command_line(["mail", "calls"]), ["mail", *arguments])


async def test_D8_ls_says_how_many_are_queued_and_what_the_mail_server_does(
    desk: MailOutboxKit, mailbox: FaultyMailbox
) -> None:
    """Host and port, the last error, and since when. Once the server is back, the line is gone."""
    await mailbox.stop()
    await desk.queue("a")
    async with desk.dispatcher(mailbox):

        async def is_shown() -> bool:
            return f"mail server 127.0.0.1:{mailbox.port} since" in (await mail("ls")).stderr

        await eventually(is_shown)
        listed = await mail("ls")
        assert "1 queued, the oldest since" in listed.stderr
        assert "Connect" in listed.stderr
        assert listed.stdout == "no failed mails\n"
        await mailbox.start()
        desk.clock.move(minutes=2)
        await desk.until("a", status="sent")

        async def is_over() -> bool:
            return (await mail("ls")).stderr == ""

        await eventually(is_over)


async def test_D8_discarded_mails_are_withheld_until_they_are_requeued(desk: MailOutboxKit) -> None:
    await desk.queue("a", "win-back")
    await desk.queue("b", "win-back", status="failed")
    await desk.queue("c")
    done = await mail("discard", "--all", "--template", "win-back")
    assert (done.exit_code, done.stdout.split()) == (0, ["a", "b"])
    row = await desk.row("a")
    assert row["status"] == "withheld"
    assert row["last_error"].startswith("discarded by ")
    assert (await desk.row("c"))["status"] == "queued"
    assert (await mail("requeue", "--all")).stdout == ""
    assert (await mail("requeue", "a")).stdout == "a\n"
    missing = await mail("discard", "c", "nothing")
    assert (missing.exit_code, missing.stdout) == (1, "c\n")
    assert "not a queued or failed mail: nothing" in missing.stderr


async def test_D8_show_prints_the_whole_mail(desk: MailOutboxKit) -> None:
    await desk.queue("a")
    shown = orjson.loads((await mail("show", "a")).stdout)
    assert (shown["email_key"], shown["status"], shown["recipient"]) == ("a", "queued", "a@example.com")
    assert shown["data"]["amount"]
    missing = await mail("show", "b")
    assert (missing.exit_code, missing.stderr) == (1, "billing mail show: no mail b\n")
