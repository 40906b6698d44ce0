"""F8: `billing doctor` on a whole system, and on one with faults: each is found, with its remedy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from eventlog.topics import ensure_topics
from local.stack.ports import free_port
from ops.cli import command_line
from ops.doctor.stripe_checks import event_types
from schemas.settings import load_settings
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.stripelist import KEY, ListingStripe

CONFIG = """
[endpoints.default]
secrets = ["whsec_4f8a1c9e2b7d6053a1f0c8e9b2d4f6a7"]
[plans.pro]
name = "Pro"
prices = ["price_pro"]
[mail]
sender = "Acme <billing@acme.test>"
"""
Findings = dict[str, list[dict[str, Any]]]
Doctor = Callable[..., Awaitable[tuple[int, Findings]]]


@pytest.fixture
async def stripe() -> AsyncIterator[ListingStripe]:
    async with ListingStripe() as server:
        server.lists["", "prices"] = [{"id": "price_pro", "object": "price", "active": True, "created": 1}]
        server.lists["", "webhook_endpoints"] = [
            {
                "id": "we_1",
                "url": "https://billing.acme.test/webhooks/stripe/default",
                "status": "enabled",
                "enabled_events": event_types(),
                "created": 1,
            }
        ]
        yield server


@pytest.fixture
async def doctor(
    database: SecretStr,
    kafka_bootstrap: str,
    topic_prefix: str,
    stripe: ListingStripe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Doctor]:
    """Runs the command with the settings of a whole system, and some that a test changes."""
    config = tmp_path / "billing.toml"
    config.write_text(CONFIG)
    async with FaultyMailbox() as mailbox:
        for name, value in {
            "CONFIG": str(config),
            "DATABASE_URL": database.get_secret_value(),
            "KAFKA_BOOTSTRAP": kafka_bootstrap,
            "TOPIC_PREFIX": topic_prefix,
            "PARTITIONS": "2",
            "REPLICATION_FACTOR": "1",
            "SMTP_URL": mailbox.url,
            "STRIPE_API_KEY": KEY,
            "STRIPE_API_BASE": stripe.url,
            "LINK_SECRET": "f0c8e9b2d4f6a74f8a1c9e2b7d6053a1",
        }.items():
            monkeypatch.setenv(f"BILLING_{name}", value)
        await asyncio.to_thread(ensure_topics, load_settings())

        async def run(*words: str, **changes: str) -> tuple[int, Findings]:
            for name, value in changes.items():
                monkeypatch.setenv(f"BILLING_{name}", value)
            arguments = ["doctor", "--json", *words]
            ended = await asyncio.to_thread(lambda: CliRunner().invoke(command_line(["doctor"]), arguments))
            found: Findings = {}
            for line in ended.stdout.splitlines():
                finding = orjson.loads(line)
                found.setdefault(finding["check"], []).append(finding)
            return ended.exit_code, found

        yield run


def bad(found: Findings, check: str) -> list[str]:
    return [one["text"] for one in found[check] if one["status"] == "failed"]


async def test_F8_a_whole_system_has_no_failure(doctor: Doctor) -> None:
    code, found = await doctor()
    assert {check: bad(found, check) for check in found} == {check: [] for check in found}
    assert code == 0
    assert list(found) == ["config", "secrets", "mails", "schedules", "kafka", "postgres", "smtp", "stripe", "adoption"]
    assert KEY not in str(found)


async def test_F8_what_is_away_is_named_and_the_rest_is_checked(doctor: Doctor) -> None:
    gone = f"127.0.0.1:{free_port()}"
    code, found = await doctor(
        "--timeout",
        "15",
        DATABASE_URL=f"postgresql://billing:hunter2@{gone}/x",
        SMTP_URL=f"smtp://{gone}",
        STRIPE_API_BASE=f"http://{gone}",
    )
    assert code == 1
    assert [len(bad(found, check)) for check in ("postgres", "smtp", "stripe", "kafka")] == [1, 1, 1, 0]
    assert all(one["remedy"] for check in found for one in found[check] if one["status"] == "failed")
    assert "hunter2" not in str(found)


async def test_F8_faults_at_stripe_are_named(doctor: Doctor, stripe: ListingStripe) -> None:
    (endpoint,) = stripe.lists["", "webhook_endpoints"]
    endpoint["enabled_events"] = ["invoice.paid"]
    stripe.lists["", "prices"] = [{"id": "price_other", "object": "price", "active": True, "created": 1}]
    stripe.forbidden = {"disputes"}
    code, found = await doctor("--only", "stripe")
    assert code == 1
    rights, price, events = bad(found, "stripe")
    assert rights == "the key may not read Disputes"
    assert price == "price_pro of plan pro does not exist at Stripe in test mode"
    assert f"lacks {len(event_types()) - 1} event types" in events
    warnings = [one["text"] for one in found["stripe"] if one["status"] == "warning"]
    assert warnings == ["active recurring prices that no plan names: price_other"]


async def test_F8_missing_topics_and_tables_are_named(doctor: Doctor, database_url: str, database: SecretStr) -> None:
    empty = database.get_secret_value().rpartition("/")[0] + "/postgres"
    code, found = await doctor("--only", "kafka", "--only", "postgres", DATABASE_URL=empty, TOPIC_PREFIX="missing")
    assert code == 1
    assert bad(found, "kafka") == ["there is no topic missing.events", "there is no topic missing.dead"]
    assert bad(found, "postgres") == ["it has no tables"]
    assert {one["remedy"] for one in found["postgres"] if one["status"] == "failed"} == {"run `billing migrate`"}


async def test_F8_a_key_of_the_other_mode_and_no_key(doctor: Doctor) -> None:
    code, found = await doctor("--only", "stripe", STRIPE_API_KEY=KEY.replace("test", "live"))
    assert code == 1
    assert "is a key of live mode" in bad(found, "stripe")[0]
    code, found = await doctor("--only", "stripe", STRIPE_API_KEY="")
    assert (code, found["stripe"][0]["status"]) == (0, "skipped")


async def test_F8_the_steps_of_taking_over_are_named(
    doctor: Doctor, stripe: ListingStripe, database: SecretStr
) -> None:
    async def adoption() -> list[tuple[str, str]]:
        _, found = await doctor("--only", "adoption")
        return [(one["status"], one["text"]) for one in found["adoption"]]

    assert await adoption() == [("ok", "shadow mode is off"), ("ok", "there is nothing to import")]

    stripe.lists["", "customers"] = [{"id": "cus_old", "object": "customer", "created": 1_700_000_000}]
    connection = await asyncpg.connect(database.get_secret_value())
    await connection.execute("INSERT INTO billing.shadow (began_at) VALUES (now())")
    (shadow, missing, mails) = await adoption()
    assert [status for status, _ in (shadow, missing, mails)] == ["warning"] * 3
    assert shadow[1].startswith("shadow mode is on since")
    assert missing[1] == "customers from before this system are at Stripe, and nothing was imported"

    begun = "INSERT INTO billing.imports (account, since, started_at, part) VALUES ('', now(), now(), 'disputes')"
    await connection.execute(begun)
    assert (await adoption())[1][0] == "failed"
    await connection.execute("UPDATE billing.imports SET ended_at = now(), covers_until = started_at")
    assert (await adoption())[1][1].startswith("imported ")
    await connection.close()
