"""Every command in docs/runbook.md runs, as it stands there, against a system that has something to answer about."""

from __future__ import annotations

import asyncio
import os
import re
import secrets as randomly
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from local.faulty_mailbox import FaultyMailbox
from local.ports import free_port
from local.stripe_events import Json, StripeEvents
from ops.send import post
from sinks.postgres.brakes import Brakes
from tests.stripelist import KEY, ListingStripe
from tests.systemkit import RiggedSystem, fetch, running_system

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs"
RUNBOOK = DOCS / "runbook.md"
GROUP = "billing.worker"
STAYS_UP = ("billing worker",)
"""Commands that run until they are told to stop; they must become ready first."""

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXITS = re.compile(r"  # exits (\d+)")
_METRIC = re.compile(r"billing_[a-z_]+")
_WITHIN_S = 60.0
_READY_WITHIN_S = 40.0


@dataclass(frozen=True)
class Command:
    line: str
    code: int


def commands() -> list[Command]:
    lines = [line for block in _BLOCK.findall(RUNBOOK.read_text()) for line in block.splitlines() if line.strip()]
    found = []
    for line in dict.fromkeys(lines):
        documented = _EXITS.search(line)
        found.append(Command(line.partition("  #")[0], int(documented[1]) if documented else 0))
    return found


def test_every_metric_in_it_is_one_that_is_shown() -> None:
    shown = set(_METRIC.findall((DOCS / "metrics.md").read_text()))
    table = [line for line in RUNBOOK.read_text().splitlines() if line.startswith("| Billing")]
    assert len(table) > 10
    asked_for = {name for line in table for name in _METRIC.findall(line)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked_for} <= shown


def test_every_link_in_it_leads_somewhere() -> None:
    text = RUNBOOK.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings
    assert all((DOCS / name).exists() for name in re.findall(r"\]\(([a-z]+\.md)", text))


async def test_every_command_in_it_runs(tmp_path: Path) -> None:
    """Each under `sh`, in the folder where `billing up` has its state."""
    async with ListingStripe() as stripe, FaultyMailbox() as mailbox:
        settings = {
            "BILLING_SMTP_URL": mailbox.url,
            "BILLING_STRIPE_API_BASE": stripe.url,
            "BILLING_STRIPE_API_KEY": KEY,
            "BILLING_SESSION_TIMEOUT_S": "6",
        }
        running = running_system(tmp_path / ".billing", settings=settings)
        system = await asyncio.to_thread(running.__enter__)
        try:
            names = await eventful(system, stripe, mailbox)
            failed = []
            for command in commands():
                code, said = await run(command.line, names, tmp_path)
                print(f"$ {command.line}\n{said}")  # noqa: T201  # what the runbook shows is copied from here
                if code != command.code:
                    failed.append(f"$ {command.line}\nexited {code}, not {command.code}:\n{said}")
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
    assert not failed, "\n\n".join(failed)


async def eventful(system: RiggedSystem, stripe: ListingStripe, mailbox: FaultyMailbox) -> dict[str, str]:
    """Brings about what an operator has to deal with; what the runbook leaves to fill in, by name."""
    make, now = StripeEvents(), int(time.time())
    mailbox.rejected_recipients.add("gone@example.com")
    ada, subscription = "cus_ada", make.subscription("sub_ada", customer="cus_ada", start=now)
    paid = make.invoice("in_ada", customer=ada, subscription="sub_ada", status="paid", created=now)
    told = [
        make.event("customer.created", make.customer(ada, email="gone@example.com", created=now), now),
        make.event("customer.subscription.created", subscription, now),
        make.event("invoice.paid", paid, now + 1),
    ]
    lost = make.event("customer.created", make.customer("cus_lost", email="lost@example.com"), now - 3600)
    dead = [
        make.event("customer.subscription.updated", subscription | {"status": odd}, now + 2)
        for odd in ("frozen", "thawed")
    ]
    await deliver(system, [*told, *dead])
    stripe.tell(lost, *told, *dead)
    stripe.undelivered.add(lost["id"])
    stripe.lists["", "subscriptions"] = [subscription]
    stripe.lists["", "invoices"] = [paid]
    await until(system, "SELECT count(*) = 5 FROM billing.events")
    await until(system, "SELECT count(*) > 0 FROM billing.emails WHERE status = 'failed'")
    mailbox.rejected_recipients.clear()
    (mail,) = await fetch(system, "SELECT email_key FROM billing.emails WHERE status = 'failed' LIMIT 1")
    brakes = Brakes(SecretStr(system.postgres.url))
    await brakes.trip(
        "billing.worker", "20 of the last 20 events died", ["MalformedEvent: data.object.status"], "0.1.0"
    )
    rehearsal = f"rehearsal_{randomly.token_hex(4)}"
    await execute(system, f"CREATE DATABASE {rehearsal}")
    return {
        "EVENT": told[2]["id"],
        "CUSTOMER": ada,
        "DEAD": dead[0]["id"],
        "POISON": dead[1]["id"],
        "MAIL": mail["email_key"],
        "WORKER": system.metrics_url("worker-1").removesuffix("/metrics"),
        "REHEARSAL": f"{system.postgres.url.rpartition('/')[0]}/{rehearsal}",
    }


async def deliver(system: RiggedSystem, events: list[Json]) -> None:
    secret = system.config.endpoints["default"].secrets[0]
    async with aiohttp.ClientSession() as session:
        for event in events:
            answer = await post(session, system.url_of("default"), orjson.dumps(event), secret)
            assert answer.status == 200, answer


async def until(system: RiggedSystem, question: str, within_s: float = _WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while True:
            (answer,) = await fetch(system, question)
            if any(answer.values()):
                return
            await asyncio.sleep(0.1)


async def execute(system: RiggedSystem, statement: str) -> None:
    connection = await asyncpg.connect(system.postgres.url, timeout=10)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=5)


async def run(line: str, names: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Exit code and output, in a shell that has the settings as the runbook says."""
    own = str(Path(sys.executable).parent)
    environment = {**os.environ, **names, "PATH": f"{curl_in(folder)}:{own}:{os.environ['PATH']}", "COLUMNS": "120"}
    port = free_port()
    if line.startswith(STAYS_UP):
        environment["BILLING_OPS_PORT"] = str(port)
    script = f"set -e; set -a; . .billing/env; set +a; exec {line}" if line.startswith("billing") else line
    if line.startswith("curl"):
        script = f"set -a; . .billing/env; set +a; {line}"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    if line.startswith(STAYS_UP):
        await ready(f"http://127.0.0.1:{port}/readyz")
        process.terminate()
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _WITHIN_S)
    except TimeoutError:
        process.kill()
        said, _ = await process.communicate()
        return -1, said.decode()
    assert process.returncode is not None
    return process.returncode, said.decode().strip()


async def ready(url: str) -> None:
    async with asyncio.timeout(_READY_WITHIN_S), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


def curl_in(folder: Path) -> Path:
    """`curl -s URL`, for machines that have none."""
    place = folder / "bin"
    if not place.exists():
        place.mkdir()
        script = place / "curl"
        script.write_text(
            f"#!{sys.executable}\n"
            "import sys, urllib.error, urllib.request\n"
            "try:\n"
            "    answer = urllib.request.urlopen(sys.argv[2], timeout=10)\n"
            "except urllib.error.HTTPError as refusal:\n"
            "    answer = refusal\n"
            "print(answer.read().decode())\n"
        )
        script.chmod(0o755)
    return place
