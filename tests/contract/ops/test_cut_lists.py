"""A list that is cut says how many rows there are; with --json the line is on stderr."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from ops.cli import command_line
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import email_row, known, ledger_row, write


@pytest.fixture
def three_mails(database: SecretStr, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", database.get_secret_value())


async def test_mails(three_mails: None, store: Store) -> None:
    ledger = [ledger_row(f"evt_{n}") for n in range(3)]
    await write(
        store,
        Flush(
            known(),
            ledger=ledger,
            outbox=[email_row(f"welcome:sub_{n}", f"evt_{n}") for n in range(3)],
            dead_letters=[],
        ),
    )
    app = command_line(["mail", "customer"])

    cut = await asyncio.to_thread(CliRunner().invoke, app, ["mail", "ls", "--all", "--limit", "2"])
    assert cut.stdout.splitlines()[-1] == "2 of 3, --limit for more"
    cut = await asyncio.to_thread(CliRunner().invoke, app, ["mail", "ls", "--all", "--limit", "2", "--json"])
    assert [orjson.loads(line)["status"] for line in cut.stdout.splitlines()] == ["queued", "queued"]
    assert cut.stderr.splitlines()[-1] == "2 of 3, --limit for more"
    whole = await asyncio.to_thread(CliRunner().invoke, app, ["mail", "ls", "--all", "--limit", "3"])
    assert "for more" not in whole.stdout

    shown = await asyncio.to_thread(CliRunner().invoke, app, ["customer", "cus_1", "--limit", "2"])
    assert shown.stdout.count("2 of 3, --limit for more") == 2, "events and mails"
    found = await asyncio.to_thread(CliRunner().invoke, app, ["customer", "cus_1", "--limit", "2", "--json"])
    assert orjson.loads(found.stdout)["totals"]["events"] == 3
