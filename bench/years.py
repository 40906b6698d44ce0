"""Measures a system that has lived for years: commands, the worker's rate, and customers with long histories."""

from __future__ import annotations

import asyncio
import time

from bench.commands import whole_command_s
from bench.console import pages
from bench.drain import drain, filled
from bench.figures import Figures, Ratio
from bench.ledger import EVENTS, FINISHED, PLAIN, SPECIAL, TIMERS, fill
from bench.load import Load, produce
from bench.place import BenchServers
from bench.processes import measured

DRAINED = 20_000
_ALONE = 300
"""Events of one customer that are applied one by one: at ordinary rates, a batch is one event."""
FULL, EMPTY = "worker, full database", "worker, empty database"
COMMANDS = {
    "mrr": ["mrr"],
    "mrr --since": ["mrr", "--since", "2026-01-01"],
    "event": ["event", "evt_year_77"],
    "customer": ["customer", "cus_year_7"],
    "customer with 20,000 events": ["customer", "cus_events0"],
    "find": ["find", "7@example.com"],
    "status": ["status"],
    "dead ls": ["dead", "ls"],
    "dead ls --groups": ["dead", "ls", "--groups"],
    "mail ls": ["mail", "ls"],
    "mail ls --all": ["mail", "ls", "--all"],
    "mail requeue --all": ["mail", "requeue", "--all", "--limit", "10"],
    "calls ls --all": ["calls", "ls", "--all"],
    "prune --dry-run": ["prune", "--dry-run"],
}


def event_of(customer: str) -> str:
    """Returns the name of the figure of one event of a special customer."""
    return f"an event of the customer {customer!r}"


async def years(place: BenchServers, figures: Figures, rounds: int, ledger: int) -> None:
    """Fill a database with `ledger` events, then measure each round beside an empty one. Raises RunFailed, TooLate."""
    site = await place.site("years")
    began = time.perf_counter()
    await fill(site.settings.database_url, ledger)
    figures.add(f"filling {ledger:,} events", time.perf_counter() - began, "s")
    environment = site.environment()
    drained = min(DRAINED, ledger)
    for number in range(rounds):
        for name, words in COMMANDS.items():
            figures.add(f"billing {name}", await asyncio.to_thread(whole_command_s, words, environment), "s")
        load = Load(drained, prefix=f"r{number}x")
        await asyncio.to_thread(produce, site.settings, load)
        figures.add(FULL, (await drain(place, site, load)).per_s, "events/s")
        load = Load(drained)
        figures.add(EMPTY, (await drain(place, await filled(place, load, "empty"), load)).per_s, "events/s")
    for customer in SPECIAL:
        arguments = [str(_ALONE), "1", "1", customer, "1"]
        found = await asyncio.to_thread(measured, "bench.from_memory", arguments, environment, 300)
        figures.add(event_of(customer), 1000 / found["events_per_s"], "ms")
    await pages(site, figures, rounds, place.servers["postgres"])
    figures.ratios.append(Ratio(FULL, EMPTY))
    for customer in (TIMERS, EVENTS, FINISHED):
        figures.ratios.append(Ratio(event_of(customer), event_of(PLAIN)))
