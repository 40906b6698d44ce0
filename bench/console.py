"""Measures the console: how soon each page begins to answer, and what its data costs the worker."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from statistics import quantiles

import aiohttp
import asyncpg

from bench.drain import MEMORY
from bench.figures import Figures, Ratio
from bench.ledger import fill
from bench.load import CUSTOMERS
from bench.place import BenchServers, Site
from bench.processes import answers, billing, cpu_seconds, measured, running
from console.app import ROUTES
from console.web import addresses
from local.stack.ports import free_port
from local.waiting import wait_until
from schemas.console_settings import Role
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job
from sinks.postgres.console_sessions import ConsoleSessions

SLOWEST = "console, slowest page"
WITHOUT_INDEXES = "worker from memory, without the console's indexes"
WITHOUT_CHANGES = "worker from memory, without events.changes"
INDEXES = (
    "events_applied", "customers_email", "customers_name", "emails_queued", "emails_failed", "emails_message",
    "payments_failed",
)  # fmt: skip
"""The indexes that only the console and the commands of operators read."""

_TIMES = 30
"""How often each page is opened in a round."""

_KEY = "a-key-of-the-bench"
EXAMPLES = {
    "/events": (
        "/events",
        "/events?type=invoice.*",
        "/events?type=no.such",
        "/events?customer=cus_year_7&since=all",
        "/events?customer=cus_events0&type=no.such",
        "/events?outcome=waiting&since=all",
    ),
    "/events/{event_id}": ("/events/evt_year_77",),
    "/customers/{customer_id}": ("/customers/cus_year_7", "/customers/cus_events0", "/customers/cus_finished0"),
    "/customers/{customer_id}/past": ("/customers/cus_year_7/past?at=2026-01-01",),
    "/search": ("/search?q=77@example.com", "/search?q=Ada 777", "/search?q=in_year_77"),
    "/dead": ("/dead", "/dead?type=invoice.paid"),
    "/dead/letters/{event_id}": ("/dead/letters/evt_year_1000",),
    "/dead/rehearsal": ("/dead/rehearsal?id=evt_year_1000",),
    "/brake/release": (),  # no brake holds
    "/outboxes/{name}": ("/outboxes/stripe_calls",),
    "/outboxes/{name}/requeue": ("/outboxes/emails/requeue",),
    "/mails/{key}": ("/mails/m_year_77",),
    "/timers/fire": (),  # its timers are of no kind that is fired
    "/checks/{kind}": ("/checks/reconcile", "/checks/audit"),
    "/jobs/{key}": (f"/jobs/{_KEY}",),
    "/revenue/movements": ("/revenue/movements?month=2026-11",),
}


async def console(place: BenchServers, figures: Figures, rounds: int, ledger: int) -> None:
    """Fill a database with `ledger` events and measure the pages. Raises RunFailed, TooLate."""
    site = await place.site("console")
    await fill(site.settings.database_url, ledger)
    await pages(site, figures, rounds, place.servers["postgres"])


async def pages(site: Site, figures: Figures, rounds: int, postgres: int) -> None:
    """Open each page of the console 30 times in each round: milliseconds to the first byte, CPU time, and its bytes.

    The CPU time of a page is that of the console and of Postgres, whose process id is given. Unlike the time to the
    first byte it hardly depends on what else runs on the machine.
    """
    port, ops_port, log = free_port(), free_port(), site.folder / "console.log"
    environment = site.environment(BILLING_CONSOLE_PORT=str(port), BILLING_OPS_PORT=str(ops_port))
    url = site.settings.database_url
    token = await ConsoleSessions(url).begin("bench (link)", Role.ADMIN.label, timedelta(hours=12))
    entry = AuditEntry(who="bench", role=Role.ADMIN.label, action="console.replay dead letters")
    await ConsoleActions(url).begin(_KEY, entry, job=Job(None, 1))
    with running(billing("console"), environment, log) as process:
        wait_until(
            lambda: answers(f"http://127.0.0.1:{ops_port}/readyz"), "the console", within_s=60, process=process, log=log
        )
        base, headers = f"http://127.0.0.1:{port}", {"Accept": "text/html"}
        cookies = {f"billing-console-{port}": token}
        async with aiohttp.ClientSession(base, headers=headers, cookies=cookies) as browser:
            for _ in range(rounds):
                slowest, dearest, all_spent, opened = 0.0, 0.0, 0.0, 0
                for address in addresses(ROUTES, EXAMPLES):
                    before = cpu_seconds(process.pid), cpu_seconds(postgres)
                    took, size = await _opened(browser, address)
                    spent = cpu_seconds(process.pid) - before[0]
                    each = 1000 * (spent + cpu_seconds(postgres) - before[1]) / _TIMES
                    slowest, dearest = max(slowest, took), max(dearest, each)
                    all_spent, opened = all_spent + spent, opened + _TIMES
                    figures.add(f"console {address}: p95 to the first byte", took, "ms")
                    figures.add(f"console {address}: with Postgres", each, "CPU ms")
                    figures.add(f"console {address}: size", size / 1024, "KiB")
                figures.add(f"{SLOWEST}: p95 to the first byte", slowest, "ms")
                figures.add("console, dearest page: with Postgres", dearest, "CPU ms")
                figures.add("console: CPU of a page", 1000 * all_spent / opened, "CPU ms")


async def _opened(browser: aiohttp.ClientSession, address: str) -> tuple[float, int]:
    """Return the 95th percentile in milliseconds, and the size of the page in bytes as it is sent."""
    times, size = [], 0
    for _ in range(_TIMES):
        began = time.perf_counter()
        async with browser.get(address, allow_redirects=False) as answer:
            times.append(1000 * (time.perf_counter() - began))
            if answer.status not in (200, 303):  # a search with one hit leads to it
                raise AssertionError(f"{address} answers {answer.status}")
            size = len(await answer.read())
    return quantiles(times, n=20)[18], size


async def price(place: BenchServers, figures: Figures, rounds: int, events: int) -> None:
    """Apply the same events with and without the console's data, one after the other in each round."""
    for number in range(rounds):
        variants = [MEMORY, WITHOUT_INDEXES, WITHOUT_CHANGES]
        for variant in variants if number % 2 == 0 else reversed(variants):
            site = await place.site("price")
            if variant == WITHOUT_INDEXES:
                await _drop_indexes(site)
            module = "bench.without_changes" if variant == WITHOUT_CHANGES else "bench.from_memory"
            before, size = cpu_seconds(place.servers["postgres"]), await _bytes(site)
            found = await asyncio.to_thread(
                measured, module, [str(events), str(CUSTOMERS), "2"],
                site.environment(BILLING_LOG_LEVEL="warning"), 60 + events / 200,
            )  # fmt: skip
            figures.add(variant, found["events_per_s"], "events/s")
            figures.add(f"{variant}: worker", found["cpu_ms"], "CPU ms/event")
            spent = cpu_seconds(place.servers["postgres"]) - before
            figures.add(f"{variant}: postgres", 1000 * spent / events, "CPU ms/event")
            figures.add(f"{variant}: in Postgres", (await _bytes(site) - size) / events, "bytes/event")
    for other in (WITHOUT_INDEXES, WITHOUT_CHANGES):
        figures.ratios.append(Ratio(MEMORY, other))


async def _drop_indexes(site: Site) -> None:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        for name in INDEXES:
            await connection.execute(f"DROP INDEX billing.{name}")
    finally:
        await connection.close()


async def _bytes(site: Site) -> int:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        return int(await connection.fetchval("SELECT pg_database_size(current_database())"))
    finally:
        await connection.close()
