"""An existing Stripe account is imported through the log, once, and no one is mailed (behaviours.md F1)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from eventlog.lag import GroupPositions
from local.stack.ports import free_port
from local.stripe.builder import Json
from local.stripe.simulator.server import Fault
from recovery.audit.differences import Cause, Kind
from recovery.audit.runs import LOCK_ID
from recovery.imports import importer
from recovery.imports.applied import wait_until_applied
from recovery.imports.coverage import is_covered
from recovery.imports.wiring import importer as wired_importer
from schemas.errors import LogUnavailable
from tests.kits.auditkit import AuditKit, open_audit
from tests.kits.reconcilekit import NOW, ReconcileKit
from tests.kits.storekit import fetch
from tests.waiting import eventually

STATE = """
SELECT subscription_id, s.status, s.plan, s.quantity, current_period_end, s.cancel_at_period_end, s.ended_at,
    s.default_payment_method, payment_attempts, o.status AS organization, a.has_access, a.plan AS access
FROM billing.subscriptions s
LEFT JOIN billing.organizations o USING (account, customer_id) LEFT JOIN billing.access a USING (account, customer_id)
ORDER BY subscription_id
"""


@pytest.fixture
async def kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[AuditKit]:
    async with open_audit(kafka_bootstrap, database, topic_prefix, customers=125) as opened:
        yield opened


async def imported(kit: AuditKit, folder: Path, *options: str, code: int = 0) -> Any:
    ended = await kit.billing(folder, " ".join(["billing import --json --no-audit", *options]))
    assert ended.exit_code == code, ended.stderr
    return orjson.loads(ended.stdout.splitlines()[-1]) if code == 0 else ended.stderr


async def change(kit: AuditKit, statement: str) -> None:
    await rows(kit.desk, statement)


async def rows(desk: ReconcileKit, query: str) -> list[dict[str, Any]]:
    return await fetch(desk.settings.database_url, query)


async def test_a_company_is_imported_once_without_mails_and_the_books_agree(kit: AuditKit, tmp_path: Path) -> None:
    books, desk = kit.books, kit.desk
    report = await imported(kit, tmp_path)
    assert report["read"]["customers"] == sum(not one.get("deleted") for one in books.all("customer"))
    assert report["read"]["subscriptions"] == len(books.all("subscription")) > 0
    assert report["read"]["recent refunds"] == len(books.all("refund")) > 0
    await kit.process_log()

    outcomes = Counter(row["outcome"] for row in await rows(desk, "SELECT outcome FROM billing.events"))
    assert set(outcomes) <= {"applied", "stale"}
    stored = await rows(desk, "SELECT subscription_id, status FROM billing.subscriptions")
    assert {row["subscription_id"]: row["status"] for row in stored} == {
        one["id"]: one["status"] for one in books.all("subscription")
    }
    left = await rows(desk, "SELECT DISTINCT status FROM billing.emails UNION SELECT status FROM billing.stripe_calls")
    assert {row["status"] for row in left} <= {"withheld"}
    past = "SELECT kind FROM billing.timers WHERE status = 'pending' AND due_at < now() AND kind <> 'dispute-link'"
    assert not await rows(desk, past)
    sources = Counter(record.headers["source"] for record in await asyncio.to_thread(desk.records))
    assert sources == {"import": report["appended"]}

    kept = "SELECT count(*) FROM billing.emails UNION ALL SELECT count(*) FROM billing.notifications"
    queued = await rows(desk, kept)
    before = await rows(desk, STATE)
    again = await imported(kit, tmp_path)
    assert (again["appended"], again["resumed_at"]) == (report["appended"], None)
    await kit.process_log()
    repeated = Counter(row["outcome"] for row in await rows(desk, "SELECT outcome FROM billing.events"))
    assert repeated.keys() == outcomes.keys()
    assert outcomes.total() < repeated.total() < 2 * outcomes.total()  # what is dated by itself is the same event
    assert await rows(desk, STATE) == before
    assert await rows(desk, kept) == queued

    # No event has arrived. The import has fetched the checkouts and payments, which the objects do not show.
    assert report["read"]["past events"] > 0
    audited = await kit.audit()
    assert audited.agrees, audited.differences
    assert audited.counts["events"] > 100
    assert sum(total.stripe for total in audited.totals if total.what == "refunded") > 0

    # An event from after the import has to arrive. Reconciliation finds it, and none of those that were imported.
    kit.company.stripe.clock.now = int(datetime.now(UTC).timestamp()) - 1
    running = next(one for one in kit.books.all("subscription") if one["status"] == "active")
    with kit.books.change(running):
        running["cancel_at_period_end"] = not running["cancel_at_period_end"]
    missed = kit.books.events[-1].render()
    audited = await kit.audit(grace=timedelta(0))
    found = {(one.kind, one.id): one.cause for one in audited.differences}
    assert found[Kind.EVENT, missed["id"]] is Cause.NEVER_ARRIVED
    assert {kind for kind, _ in found} == {Kind.EVENT, Kind.SUBSCRIPTION}
    appended = {*await kit.desk.ids()}
    ended = await kit.billing(tmp_path, "billing reconcile --grace 0s")
    assert ended.exit_code == 0, ended.stderr
    fetched = {*await kit.desk.ids()} - appended
    assert missed["id"] in fetched
    rest = [event.render() for event in kit.books.events if event.id in fetched - {missed["id"]}]
    assert [event["type"] for event in rest if is_covered(event, datetime.now(UTC))] == []
    await kit.process_log()
    assert (await kit.audit(grace=timedelta(0))).agrees


async def test_an_import_that_leaves_something_out_covers_nothing(kit: AuditKit, tmp_path: Path) -> None:
    await imported(kit, tmp_path, "--since 7d")
    (row,) = await rows(kit.desk, "SELECT * FROM billing.imports")
    assert (row["covers_until"], row["ended_at"] is None) == (None, False)


async def test_an_import_ends_with_the_audit_once_the_workers_have_applied_it(kit: AuditKit, tmp_path: Path) -> None:
    idle = await kit.billing(tmp_path, "billing import --json --wait 1")
    assert (idle.exit_code, orjson.loads(idle.stdout.splitlines()[-1])["audit"]) == (1, None)
    said = await kit.billing(tmp_path, "billing import --wait 1")
    assert "When they have: billing audit --since 30d" in said.stderr

    importing = asyncio.create_task(kit.billing(tmp_path, "billing import --json --since 400d"))
    is_over = "SELECT FROM billing.imports WHERE ended_at IS NOT NULL AND since < now() - '1y'::interval"
    await eventually(lambda: rows(kit.desk, is_over), "the import to have read all")
    assert not importing.done()
    await kit.process_log()
    await kit.commit_all()
    ended = await importing
    (audit,) = orjson.loads(ended.stdout.splitlines()[-1])["audit"]
    assert (ended.exit_code, audit["agrees"], audit["counts"]["events"] > 0) == (0, True, True), ended


async def test_a_key_that_may_not_read_coupons_imports_without_discounts(kit: AuditKit, tmp_path: Path) -> None:
    kit.server.unreadable = "discount"
    report = await imported(kit, tmp_path)
    assert report["read"]["subscriptions"] == len(kit.books.all("subscription"))
    assert report["read"]["default cards"] > 0  # the rest is expanded
    assert report["without_discounts"] == report["read"]["customers"] + report["read"]["subscriptions"]
    said = await kit.billing(tmp_path, "billing import --no-audit")
    assert "customers and subscriptions were read without coupons" in said.stdout
    assert "Read on Coupons" in said.stdout


async def test_a_key_without_coupons_resumes_and_a_deleted_object_costs_no_discounts(
    kit: AuditKit, tmp_path: Path
) -> None:
    kit.server.unreadable = "discount"
    kit.server.refuse_from = len(kit.server.requests) + 4  # the first page is asked for twice, then a probe
    assert (await kit.billing(tmp_path, "billing import --no-audit")).exit_code == 1
    kit.server.refuse_from = None
    (row,) = await rows(kit.desk, "SELECT part, after FROM billing.imports")
    assert (row["part"], row["after"] is None) == ("customers", False)
    rest = await imported(kit, tmp_path)
    assert rest["resumed_at"] == "customers"
    assert rest["without_discounts"] == rest["read"]["customers"] + rest["read"]["subscriptions"]

    await change(kit, "UPDATE billing.imports SET ended_at = NULL, part = 'customers', after = 'cus_gone'")
    again = await imported(kit, tmp_path)  # customers and what follows, from the start
    assert again["read"]["customers"] == rest["read"]["customers"]
    assert again["without_discounts"] == again["read"]["customers"] + again["read"]["subscriptions"]

    kit.server.unreadable = None
    deleted = "UPDATE billing.imports SET ended_at = NULL, part = 'customers', after = 'cus_gone', counts = '{}'"
    await change(kit, deleted)
    first = len(kit.server.requests)
    again = await imported(kit, tmp_path)
    assert (again["resumed_at"], again["without_discounts"]) == ("customers", 0)
    kinds = [any("discount" in value for value in asked.query.values()) for asked in kit.server.requests[first:]]
    assert kinds[:3] == [True, False, True]  # once without discounts, then the whole part with them


async def test_kafka_that_does_not_say_what_is_applied_is_away(kit: AuditKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no answer of the workers, so the command exits 3 and not 1."""
    monkeypatch.setattr("recovery.imports.applied.GroupPositions", partial(GroupPositions, timeout_s=0.2))
    away = kit.desk.settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(LogUnavailable):
        await wait_until_applied(away, idle_s=0.1, say=lambda _done, _all: None)


async def test_an_import_whose_audit_does_not_run_is_printed(kit: AuditKit, tmp_path: Path) -> None:
    importing = asyncio.create_task(kit.billing(tmp_path, "billing import --json --since 400d"))
    is_over = "SELECT FROM billing.imports WHERE ended_at IS NOT NULL"
    await eventually(lambda: rows(kit.desk, is_over), "the import to have read all")
    assert not importing.done()
    other = await asyncpg.connect(kit.desk.settings.database_url.get_secret_value())
    try:
        await other.execute("SELECT pg_advisory_lock($1)", LOCK_ID)
        await kit.process_log()
        await kit.commit_all()
        ended = await importing
    finally:
        other.terminate()
    report = orjson.loads(ended.stdout.splitlines()[-1])
    assert (ended.exit_code, report["audit"], report["appended"] > 0) == (1, None, True), ended
    assert "another audit" in ended.stderr


async def test_events_that_arrive_meanwhile_win(kit: AuditKit, tmp_path: Path) -> None:
    """A subscription changes after it was read and before its import is applied; another one before it was read."""
    one, other = [sub for sub in kit.books.all("subscription") if sub["status"] == "active"][:2]
    kit.company.stripe.clock.now = int(datetime.now(UTC).timestamp()) - 60
    with kit.books.change(other):
        other["cancel_at_period_end"] = True
    earlier = kit.books.events[-1].render()
    await imported(kit, tmp_path)
    kit.company.stripe.clock.now = int(datetime.now(UTC).timestamp()) + 5
    with kit.books.change(one):
        one["cancel_at_period_end"] = True
    await kit.apply([kit.books.events[-1].render()])
    await kit.process_log()
    await kit.apply([earlier])

    flags = await rows(kit.desk, "SELECT subscription_id, cancel_at_period_end AS ends FROM billing.subscriptions")
    found = {row["subscription_id"]: row["ends"] for row in flags}
    assert (found[one["id"]], found[other["id"]]) == (True, True)
    query = f"SELECT outcome FROM billing.events WHERE event_id = '{earlier['id']}'"
    assert [row["outcome"] for row in await rows(kit.desk, query)] == ["stale"]


async def test_past_events_of_more_types_than_stripe_takes_in_one_request(
    kit: AuditKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plugins may have rules for any number of types: then all events are listed, and most are left out."""
    given = {"stripe_api_base": kit.server.url, "stripe_api_key": SecretStr(kit.server.key)}
    settings, since = kit.desk.settings.model_copy(update=given), datetime.now(UTC) - timedelta(days=90)
    read = []
    for most in (importer.MOST_TYPES, 3):  # the simulator refuses more than Stripe does
        monkeypatch.setattr(importer, "MOST_TYPES", most)
        async with wired_importer(settings, kit.config, "") as wired:
            read.append((await wired.run(since)).read)
    assert read[0] == read[1]
    assert read[0]["past events"] > 0
    asked = [one.query for one in kit.server.requests if one.path.endswith("/v1/events")]
    assert [sum(name.startswith("types") for name in query) for query in (asked[0], asked[-1])] == [4, 0]


async def test_an_interrupted_import_continues_at_its_page(kit: AuditKit, tmp_path: Path) -> None:
    customers = [one for one in kit.books.all("customer") if not one.get("deleted")]
    key, kit.server.key = kit.server.key, "sk_test_revoked"
    environment = {"BILLING_STRIPE_API_BASE": kit.server.url, "BILLING_STRIPE_API_KEY": key}
    refused = await kit.desk.ask_billing(tmp_path, "import", **environment)
    assert (refused.exit_code, "Invalid API Key" in refused.stderr) == (1, True)
    kit.server.key = key

    kit.server.refuse_from = len(kit.server.requests) + 3  # the first page of customers, and a probe of the estimate
    stopped = await kit.billing(tmp_path, "billing import --json --no-audit")
    assert stopped.exit_code == 1, stopped.stdout
    kit.server.refuse_from = None
    (row,) = await rows(kit.desk, "SELECT * FROM billing.imports")
    assert (row["part"], row["ended_at"], row["covers_until"]) == ("customers", None, None)
    assert row["last_error"]
    kit.server.faults.extend([Fault.RATE_LIMIT, Fault.SERVER_ERROR])
    kit.server.retry_after_s = 0

    first = len(kit.server.requests)
    rest = await imported(kit, tmp_path)
    assert rest["resumed_at"] == "customers"
    assert rest["read"]["customers"] == len(customers)
    assert "starting_after" in kit.server.requests[first].query
    (row,) = await rows(kit.desk, "SELECT * FROM billing.imports")
    assert row["covers_until"] == row["started_at"] < row["ended_at"]
    assert len(await kit.desk.ids()) == rest["appended"]

    kit.server.refuse_from = len(kit.server.requests) + 3
    await kit.billing(tmp_path, "billing import --no-audit")
    kit.server.refuse_from = None
    (row,) = await rows(kit.desk, "SELECT * FROM billing.imports")
    assert row["ended_at"] is None
    assert row["covers_until"] is not None  # what the first one covers stays covered
    covered = row["covers_until"]
    await change(kit, "UPDATE billing.imports SET after = 'cus_deleted_meanwhile'")
    rest = await imported(kit, tmp_path)
    assert (rest["resumed_at"], rest["read"]["customers"]) == ("customers", len(customers))
    (row,) = await rows(kit.desk, "SELECT * FROM billing.imports")
    assert row["covers_until"] == covered < row["started_at"]  # and covers no more: events arrive since then
    for begun in ("part = 'of another version'", "part = 'disputes', counts = counts - 'past checkouts'"):
        await change(kit, f"UPDATE billing.imports SET {begun}, ended_at = NULL")
        again = await imported(kit, tmp_path)
        assert (again["resumed_at"], again["read"]["customers"]) == (None, len(customers)), begun
    assert again["read"]["past checkouts"] > 0
    again = await imported(kit, tmp_path, "--restart")
    assert (again["resumed_at"], again["read"]["customers"]) == (None, len(customers))


async def test_the_memory_of_an_import_does_not_grow_with_the_customers(kit: AuditKit, tmp_path: Path) -> None:
    """Ten times as many customers need the same memory: pages are read, appended and forgotten."""
    peaks = []
    for count in (2_000, 20_000):
        async with ManyCustomers(count) as server:
            peaks.append(await peak_kb(kit, tmp_path, server.url))
    assert peaks[1] < peaks[0] * 1.1, peaks


class ManyCustomers:
    """An account with so many customers, made while they are listed."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def __aenter__(self) -> ManyCustomers:
        app = web.Application()
        app.router.add_get("/v1/{resource}", self._list)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        first = int(query["starting_after"].removeprefix("cus_")) + 1 if "starting_after" in query else 0
        is_listed = request.match_info["resource"] == "customers" and "created[lt]" not in query
        last = min(first + int(query["limit"]), self.count) if is_listed else first
        data = [self._customer(number) for number in range(first, last)]
        body = {"object": "list", "data": data, "has_more": is_listed and last < self.count, "url": request.path}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    def _customer(self, number: int) -> Json:
        return {
            "id": f"cus_{number}", "object": "customer", "created": int(NOW.timestamp()) - number,
            "email": f"person{number}@example.com", "name": f"Person {number}", "livemode": False, "metadata": {},
            "description": "x" * 1500, "invoice_settings": {"default_payment_method": None},
        }  # fmt: skip


async def peak_kb(kit: AuditKit, folder: Path, url: str) -> int:
    """Import from there in a process of its own, and return the most memory that it had, in kB."""
    environment = kit.desk.environment(folder) | {"BILLING_STRIPE_API_BASE": url}
    code = (
        "import os, sys; from ops.cli import main; sys.argv = ['billing', 'import', '--restart', '--no-audit']; main()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=dict(os.environ) | environment, stdout=asyncio.subprocess.DEVNULL
    )
    peak = 0
    while process.returncode is None:
        try:
            async with asyncio.timeout(0.05):
                await process.wait()
        except TimeoutError:
            peak = max(peak, _peak_of(process.pid))
    assert process.returncode == 0
    return peak


def _peak_of(pid: int) -> int:
    """VmHWM: the most memory that the process has had so far, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
