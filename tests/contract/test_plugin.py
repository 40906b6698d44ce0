"""F5: the example plugin, installed as a package and named in the config, from the event to its handler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from gateway.app import create_app, create_runner
from gateway.endpoints import webhook_endpoints
from gateway.metrics import GatewayMetrics
from gateway.publisher import Publisher
from local.stripe.builder import StripeEvents
from schemas.kafka_access import KafkaAccess
from schemas.plugin_registry import install, installed, load
from schemas.settings import Endpoint
from schemas.verdict import Applied, Duplicate
from sinks.feed.poster import HandlerPoster
from sinks.postgres.store import Store
from tests.contract.sinks.feed.test_flow import Worker
from tests.kits.feedkit import open_kit
from tests.kits.gatewaykit import SECRET, config, create_topics, read_topic, signed
from tests.kits.rulekit import CONFIG, NOW, at
from tests.paths import ROOT
from tests.waiting import eventually

EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("packages")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", folder, source], check=True, timeout=120)
    return folder


@pytest.fixture
def acme(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin installed in this process, as `load_config` does it."""
    monkeypatch.syspath_prepend(str(package))
    before = installed()
    install(load(["acme"]))
    yield
    install(before)
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_billing"]:
        del sys.modules[name]


def _run(package: Path, *words: str, config_text: str = 'plugins = ["acme"]\n') -> subprocess.CompletedProcess[str]:
    path = package / "config.toml"
    path.write_text(config_text)
    env = {**os.environ, "BILLING_CONFIG": str(path), "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "ops.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_F5_the_packages_own_tests_pass(package: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXAMPLE / "tests")]
    env = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, env=env, cwd=package, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def worker(store: Store, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Worker]:
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    yield Worker(store, letters, CONFIG)
    letters.close()


async def test_F5_a_second_rule_queues_its_mail_and_reaches_its_handler(
    acme: None, worker: Worker, database: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the project's own rule, which stores the payment and sends the receipt. A repeat does nothing."""
    monkeypatch.setenv("ACME_FILE", str(tmp_path / "lines"))
    make = StripeEvents()
    invoice = {**make.invoice(status="paid", created=NOW), "amount_paid": 250_000}
    event = make.event("invoice.paid", invoice, NOW, id_="evt_large")
    assert isinstance(await worker.take(event), Applied)
    assert isinstance(await worker.take(event), Duplicate)
    report = {"id": "rep_1", "customer": "cus_1", "used": 50}
    own = {**make.event("acme.seats_reported", report, NOW + 1), "id": "own_1"}
    assert isinstance(await worker.take(own), Applied)
    async with open_kit(database) as feed:
        rows = await feed.connection.fetch("SELECT template FROM billing.emails ORDER BY template")
        assert [row["template"] for row in rows] == ["acme-large-payment", "acme-seats-used-up", "payment-receipt"]
        feed.clock.now = at(NOW + 60)
        (handler,) = installed()[0].handlers
        async with feed.dispatcher({"acme-file": HandlerPoster(handler)}):

            async def is_sent() -> bool:
                query = "SELECT status FROM billing.notifications WHERE type = 'acme.large_payment'"
                return [row["status"] for row in await feed.connection.fetch(query)] == ["sent"]

            await eventually(is_sent, within_s=60)
    (line,) = (tmp_path / "lines").read_text().splitlines()
    message = json.loads(line)
    assert message["type"] == "acme.large_payment"
    assert (message["data"]["amount"], message["data"]["customer_id"]) == (250_000, "cus_1")


async def test_F5_own_events_have_an_endpoint_of_their_own(acme: None, kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = create_topics(kafka_bootstrap, topic_prefix, partitions=1)
    endpoints = config(own=Endpoint(secrets=(SecretStr(SECRET.decode()),), own_events=True))
    metrics = GatewayMetrics()
    publisher = Publisher(KafkaAccess(kafka_bootstrap), settings.events_topic, metrics)
    runner = create_runner(create_app(webhook_endpoints(endpoints), publisher, metrics))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/stripe"
    make = StripeEvents()
    own = {**make.event("acme.seats_reported", {"id": "rep_1", "customer": "cus_1", "used": 50}, NOW), "id": "own_1"}
    foreign = make.event("invoice.paid", make.invoice(status="paid", created=NOW), NOW)
    try:
        async with aiohttp.ClientSession() as session:

            async def post(endpoint: str, event: dict[str, object]) -> int:
                body = json.dumps(event).encode()
                headers = {"Stripe-Signature": signed(body, at=int(time.time()))}
                async with session.post(f"{url}/{endpoint}", data=body, headers=headers) as answer:
                    return answer.status

            assert await post("own", own) == 200
            assert await post("own", {**own, "id": "evt_1"}) == 400  # it could take the place of an event of Stripe
            assert await post("own", foreign) == 400
            assert await post("own", {**own, "type": "acme.other"}) == 400
            assert await post("default", own) == 400
            assert await post("default", foreign) == 200
    finally:
        await runner.cleanup()
    stored = read_topic(kafka_bootstrap, settings.events_topic)
    assert [json.loads(message.value() or b"")["type"] for message in stored] == ["acme.seats_reported", "invoice.paid"]


def test_F5_the_commands_list_and_test_it(package: Path) -> None:
    done = _run(package, "plugin", "test", "acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("acme passes\n")
    listed = json.loads(_run(package, "plugin", "ls", "--json").stdout)
    assert listed["mails"] == ["acme-large-payment", "acme-seats-used-up"]
    assert listed["own_events"] == ["acme.seats_reported"]
    missing = _run(package, "plugin", "test", "other")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "billing plugin test: plugin other: no package offers it; installed are: acme\n"
    unknown = _run(package, "plugin", "ls", config_text='plugins = ["other"]\n')
    assert unknown.returncode == 2
    assert unknown.stderr.splitlines() == [
        f"billing plugin ls: BILLING_CONFIG: {package / 'config.toml'}: plugin other: no package offers it; "
        "installed are: acme"
    ]
