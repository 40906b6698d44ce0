"""T31: the processes of docker-compose.yml, with its environment, secrets and database logins, do all their work.

Only addresses and paths differ from the containers. The server is the test's own: roles belong to a whole server.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import psutil
import pytest
import yaml
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from local.stack.ports import free_port
from local.stack.postgres import EmbeddedPostgres
from local.stack.postgres_programs import binary
from local.stripe.events import EXAMPLES, example
from local.stripe.post import PostResult, post
from schemas.export_link import export_url
from sinks.email.unsubscribe import Subscriber, unsubscribe_url
from tests.collector import Collector
from tests.faulty_mailbox import FaultyMailbox
from tests.kits import clikit
from tests.paths import ROOT
from tests.waiting import TooLate, eventually

pytestmark = pytest.mark.e2e

PROCESSES = ("gateway", "worker", "dispatcher", "scheduler", "console", "analytics")
CONFIG = """\
mode = "test"
[endpoints.default]
[endpoints.connect]
connect = true
[plans.starter]
name = "Starter"
prices = ["price_starter_monthly"]
[mail]
send_test_mode = true
"""
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::[?-]([^}]*))?\}")


@dataclass
class Containers:
    """What docker-compose.yml says, with the secrets of deploy/new-env.sh and this machine's addresses."""

    secrets: Mapping[str, str]
    addresses: Mapping[str, str]
    extra: dict[str, str]
    folder: Path

    def environment(self, name: str) -> dict[str, str]:
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        given: dict[str, str] = {}
        for variable, value in services[name]["environment"].items():
            text = _VARIABLE.sub(lambda found: self.secrets.get(found[1], "") or "", value)
            for old, new in self.addresses.items():
                text = text.replace(old, new)
            given[variable] = text
        system = {key: value for key, value in os.environ.items() if not key.startswith("BILLING_")}
        return {**system, **given, **self.extra, "BILLING_STATE_DIR": str(self.folder / name)}

    @contextmanager
    def running(self, name: str, **extra: str) -> Iterator[clikit.ForkedProcess]:
        env = self.environment(name) | {"BILLING_OPS_PORT": str(free_port())} | extra
        with clikit.running([name], env, self.log(name)) as process:
            yield process

    def run(self, name: str, *words: str, code: int = 0) -> str:
        """What a command writes to stdout in the container of this name. By default its own command."""
        command = (
            words or yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][name]["command"].split()
        )
        done = clikit.billing(command, self.environment(name), timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout

    def ends(self) -> str:
        return "\n".join(self.log(name).read_text(errors="replace")[-2000:] for name in PROCESSES)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "server", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def containers(
    postgres: EmbeddedPostgres, kafka_bootstrap: str, mailbox: FaultyMailbox, topic_prefix: str, tmp_path: Path
) -> Containers:
    env_file = tmp_path / "made.env"
    subprocess.run(["sh", ROOT / "deploy" / "new-env.sh", env_file], check=True, timeout=30)
    assert env_file.stat().st_mode & 0o777 == 0o600
    secrets = dict(line.split("=", 1) for line in env_file.read_text().split())
    secrets["CONSOLE_PORT"] = str(free_port())
    server = postgres.superuser_url.rpartition("/")[0]
    psql = [binary("psql"), "-q", "-v", "ON_ERROR_STOP=1", f"{server}/postgres"]
    subprocess.run([*psql, "-c", "DROP DATABASE billing"], check=True, timeout=30)
    roles = ROOT / "deploy" / "postgres-roles.sql"
    subprocess.run([*psql, "-f", str(roles)], check=True, timeout=30, env={**os.environ, **secrets})
    (tmp_path / "config.toml").write_text(CONFIG)
    connect = "whsec_OfTheConnectEndpoint0123456789ab"
    return Containers(
        secrets,
        {
            "kafka:9092": kafka_bootstrap,
            "postgres:5432": f"127.0.0.1:{postgres.port}",
            "smtp://mailpit:1025": mailbox.url,
            "/etc/billing/config.toml": str(tmp_path / "config.toml"),
            "/var/lib/billing/exports": str(tmp_path / "exports"),
            "0.0.0.0": "127.0.0.1",  # what is replaced
        },
        {
            "BILLING_TOPIC_PREFIX": topic_prefix,
            "BILLING_PARTITIONS": "2",
            "BILLING_SESSION_TIMEOUT_S": "6",
            "BILLING_GATEWAY_DRAIN_S": "0",
            "BILLING_WEBHOOK_SECRET_CONNECT": connect,
        },
        tmp_path,
    )


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    async with TestServer(made.app()) as server:
        made.url = f"http://127.0.0.1:{server.port}/v1/traces"
        yield made


async def test_T31_each_process_of_compose_does_its_work_with_its_own_login(
    containers: Containers, postgres: EmbeddedPostgres, mailbox: FaultyMailbox, collector: Collector
) -> None:
    """The processes also trace, so that one start of them shows both."""
    containers.extra["BILLING_TRACES_URL"] = collector.url
    containers.run("migrate")
    containers.run("topics")
    superuser = postgres.superuser_url
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        gateway = stack.enter_context(containers.running("gateway", BILLING_GATEWAY_PORT=str(port)))
        stack.enter_context(containers.running("worker"))
        stack.enter_context(containers.running("dispatcher"))
        for name in ("scheduler", "console", "analytics"):
            stack.enter_context(containers.running(name))
        await _posted_all(url, containers.secrets["WEBHOOK_SECRET"], containers.extra["BILLING_WEBHOOK_SECRET_CONNECT"])

        outcomes = f"SELECT count(DISTINCT event_id) >= {len(EXAMPLES)} FROM billing.events WHERE event_id LIKE 'evt_%'"
        for query in (
            outcomes,
            "SELECT EXISTS (SELECT FROM billing.emails WHERE status = 'sent')",
            "SELECT EXISTS (SELECT FROM billing.exports WHERE status = 'done')",
            "WITH due AS (UPDATE billing.timers SET due_at = now() WHERE status = 'pending' RETURNING 1) "
            "SELECT count(*) > 0 FROM due",
            "SELECT EXISTS (SELECT FROM billing.timers WHERE status = 'done')",
        ):

            async def is_so(query: str = query) -> bool:
                assert not _refusals(containers)
                return bool(await _value(superuser, query))

            try:
                await eventually(is_so, query, within_s=90)
            except TooLate as error:
                raise AssertionError(containers.ends()) from error
        assert await _value(superuser, "SELECT count(*) FROM billing.events WHERE outcome = 'dead'") == 0

        secret = containers.secrets["LINK_SECRET"].encode()
        key = await _value(superuser, "SELECT export_key FROM billing.exports WHERE status = 'done' LIMIT 1")
        async with aiohttp.ClientSession() as session:
            link = export_url(url, secret, key, datetime.now(UTC) + timedelta(days=1))
            async with session.get(link) as answer:
                assert (answer.status, answer.content_type) == (200, "application/zip")
            stop = unsubscribe_url(url, secret, Subscriber("", "cus_1", "win-back"))
            async with session.post(stop) as answer:
                assert answer.status == 200
        assert await _value(superuser, "SELECT count(*) FROM billing.unsubscribed") == 1

        await _traced(collector)
        await _seen_in_the_console(containers)
        await eventually(lambda: _value(superuser, "SELECT EXISTS (SELECT FROM analytics.facts)"), "figures")
        assert "permission" not in containers.run("operator", "doctor", "--only", "postgres")
        assert "billing customer cus_1" in containers.run("operator", "find", "cus_1")
        containers.run("operator", "plans", "check")

        environ = psutil.Process(gateway.pid).environ()
        assert not {name for name in environ if "STRIPE" in name or "SMTP" in name}
        assert "superuser" not in await _roles_of(superuser)
    assert not _refusals(containers)
    assert not _personal_data(containers)


async def _seen_in_the_console(containers: Containers) -> None:
    """Sign in with the link that the console's container prints, and read pages of Postgres and of Kafka."""
    link = containers.run("console", "console", "link").strip()
    base = f"http://127.0.0.1:{containers.secrets['CONSOLE_PORT']}"
    assert link.startswith(f"{base}/sign-in?token=")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:

        async def is_up() -> bool:
            try:
                async with browser.get(f"{base}/sign-in") as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(is_up, "the console")
        async with browser.get(link) as answer:
            assert (answer.status, answer.url.path) == (200, "/")
        for page in ("/events", "/lag", "/dead"):
            async with browser.get(f"{base}{page}", headers={"Accept": "application/json"}) as answer:
                assert answer.status == 200, (page, await answer.text())


async def _traced(collector: Collector) -> None:
    """An event that led to a mail is one trace from the gateway to the dispatcher, without personal data."""
    wanted = {"billing-gateway", "billing-worker", "billing-dispatcher"}

    async def is_whole() -> bool:
        return any({span.service for span in spans} >= wanted for spans in collector.traces().values())

    await eventually(is_whole, "one trace of three processes", within_s=60)
    spans = next(found for found in collector.traces().values() if {span.service for span in found} >= wanted)
    (first,) = [span for span in spans if span.service == "billing-gateway"]
    assert (first.name, first.parent) == ("webhook.accepted", "")
    applied = [span for span in spans if span.name == "event.processed"]
    assert {span.parent for span in applied} == {first.id}
    assert {span.attributes["billing.event_id"] for span in spans} == {first.attributes["billing.event_id"]}
    texts = [str(value) for span in collector.spans for value in span.attributes.values()]
    assert not [text for text in texts if "@" in text or text.startswith(("cus_", "acct_"))]


async def _posted_all(url: str, secret: str, connect_secret: str) -> None:
    """Post one event of each type that has a rule, once the gateway answers."""
    async with aiohttp.ClientSession() as session:
        for type_ in EXAMPLES:
            event = example(type_, int(time.time()))
            is_connected = "account" in event
            path = f"{url}/webhooks/stripe/{'connect' if is_connected else 'default'}"
            post_it = partial(
                post, session, path, orjson.dumps(event), SecretStr(connect_secret if is_connected else secret)
            )

            async def is_accepted(post_it: Callable[[], Awaitable[PostResult]] = post_it) -> bool:
                try:
                    answer = await post_it()
                except aiohttp.ClientConnectionError:
                    return False
                assert answer.status in (200, 503), answer
                return answer.status == 200

            await eventually(is_accepted, f"200 for {type_}", every_s=0.2)


def _refusals(containers: Containers) -> list[str]:
    lines = [line for name in PROCESSES for line in containers.log(name).read_text(errors="replace").splitlines()]
    return [line for line in lines if "permission denied" in line or "42501" in line]


def _personal_data(containers: Containers) -> list[str]:
    """The lines of all processes with the customer's name or address, since logs outlive an erasure."""
    lines = [line for name in PROCESSES for line in containers.log(name).read_text(errors="replace").splitlines()]
    assert any("event.processed" in line for line in lines)
    assert any("email.sent" in line for line in lines)
    return [line for line in lines if re.search(r"jane\b|jane@", line, re.IGNORECASE)]


async def _value(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _roles_of(url: str) -> set[str]:
    """What the sessions of the processes are: `superuser`, or only a login."""
    query = """
    SELECT DISTINCT CASE WHEN r.rolsuper THEN 'superuser' ELSE r.rolname END FROM pg_stat_activity a
    JOIN pg_roles r ON r.rolname = a.usename
    WHERE a.datname = 'billing' AND a.application_name LIKE 'billing-%'
    """
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return {row[0] for row in await connection.fetch(query)}
    finally:
        await connection.close()
