"""`billing dispatcher` with a Stripe key, and `billing calls`, as processes: output and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
import psutil
import pytest
from pydantic import SecretStr

from eventlog.append import EventAppender
from local.stack.ports import free_port
from schemas.kafka_access import KafkaAccess
from tests.kits import clikit
from tests.kits.stripekit import TEST_KEY, CallOutboxKit, FakeStripeServer, StripeFault, open_kit
from tests.waiting import eventually


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[CallOutboxKit]:
    async with (
        FakeStripeServer() as stripe,
        open_kit(database, stripe, EventAppender(KafkaAccess("127.0.0.1:1"), "none", client_id="test")) as opened,
    ):
        opened.clock.now = datetime.now(UTC)  # processes use the real clock
        yield opened


@pytest.fixture
def env(desk: CallOutboxKit, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "billing.toml"
    config.write_text("")
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:1",  # no test here reads the log
        "BILLING_DATABASE_URL": desk.url.get_secret_value(),
        "BILLING_SMTP_URL": "smtp://127.0.0.1:1",
        "BILLING_CONFIG": str(config),
        "BILLING_STRIPE_API_KEY": TEST_KEY,
        "BILLING_STRIPE_API_BASE": desk.stripe.url,
        "BILLING_LOG_LEVEL": "debug",
    }


async def _start(*arguments: str, env: dict[str, str]) -> asyncio.subprocess.Process:
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = (sys.executable, "-m", "ops.cli", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=env, stdin=null, stdout=pipe, stderr=pipe)


async def _billing(*arguments: str, env: dict[str, str]) -> tuple[int | None, str, str]:
    done = await asyncio.to_thread(clikit.billing, arguments, env)
    return done.returncode, done.stdout, done.stderr


async def _get(port: int, path: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError:
        return 0, ""


async def test_the_process_calls_reports_and_stops(desk: CallOutboxKit, env: dict[str, str]) -> None:
    """/readyz reports a refused key; no log line, metric or argument contains the key; exit code 0 on SIGTERM."""
    port = free_port()
    desk.stripe.fail_next(StripeFault.BAD_REQUEST)
    await desk.queue("bad")
    process = await _start("dispatcher", env=env | {"BILLING_OPS_PORT": str(port)})
    try:
        await desk.until("bad", status="failed")
        await desk.queue("good")
        await desk.until("good", status="done")
        desk.stripe.key = "sk_test_rolled"
        for number in range(6):
            await desk.queue(f"waiting-{number}")

        async def is_reported() -> bool:
            _, text = await _get(port, "/readyz")
            return "invalid api key" in text

        await eventually(is_reported)
        status, ready = await _get(port, "/readyz")
        _, metrics = await _get(port, "/metrics")
        arguments = " ".join(psutil.Process(process.pid).cmdline())
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert status == 503
    assert orjson.loads(ready)["notes"] == {
        "stripe_calls": "on",
        "feed": "off: the config has no feed",
        "shadow": "off",
    }
    assert "billing_stripe_calls_enabled 1.0" in metrics
    assert "billing_stripe_calls_paused 1.0" in metrics
    assert "stripe.call_done" in err.decode()
    for text in (ready, metrics, arguments, out.decode(), err.decode()):
        assert TEST_KEY not in text


async def test_without_a_key_the_process_reports_it_and_continues(desk: CallOutboxKit, env: dict[str, str]) -> None:
    """It is shown as a note in /readyz and as a metric; the check itself passes."""
    port = free_port()
    await desk.queue("a")
    process = await _start("dispatcher", env=env | {"BILLING_OPS_PORT": str(port), "BILLING_STRIPE_API_KEY": ""})
    try:

        async def is_counted() -> bool:
            return "billing_stripe_calls_open 1.0" in (await _get(port, "/metrics"))[1]

        await eventually(is_counted, within_s=30)
        ready = orjson.loads((await _get(port, "/readyz"))[1])
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()
    assert ready["checks"]["stripe"] == "ok"
    assert ready["notes"]["stripe_calls"].startswith("off: BILLING_STRIPE_API_KEY is not set")
    assert (await desk.row("a"))["attempts"] == 0


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("BILLING_STRIPE_API_KEY", "whsec_not_a_key", "BILLING_STRIPE_API_KEY: expected sk_test_…"),
        ("BILLING_STRIPE_API_BASE", "http://stripe.example", "BILLING_STRIPE_API_BASE: expected https://host"),
    ],
)
async def test_an_unusable_setting_ends_the_process_in_one_line(
    env: dict[str, str], name: str, value: str, error: str
) -> None:
    """Exit code 2; the value is not shown. A key is never sent unencrypted."""
    code, _, err = await _billing("dispatcher", env=env | {name: value})
    assert code == 2
    assert error in err
    assert len(err.strip().splitlines()) == 1
    assert "not_a_key" not in err


async def test_an_operator_lists_and_requeues(desk: CallOutboxKit, env: dict[str, str]) -> None:
    await desk.queue("a")
    await desk.connection.execute("UPDATE billing.stripe_calls SET status = 'failed', attempts = 3, last_error = 'no'")
    code, out, _ = await _billing("calls", "ls", "--json", env=env)
    assert code == 0
    assert [(row["call_key"], row["last_error"]) for row in map(orjson.loads, out.splitlines())] == [("a", "no")]
    code, out, err = await _billing("calls", "requeue", "a", "b", env=env)
    assert (code, out.split()) == (1, ["a"])
    assert "not a failed call: b" in err
    row = await desk.row("a")
    assert (row["status"], row["attempts"]) == ("queued", 0)
    code, out, _ = await _billing("calls", "ls", env=env)
    assert (code, out.strip()) == (0, "no failed calls")
