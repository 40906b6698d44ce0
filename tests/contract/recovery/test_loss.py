"""Half of a month's events never arrive: the reconciliation finds them through Stripe's API, and the books agree (D7).

The simulated Stripe answers over HTTP, and fails as Stripe does; the log and the store are real.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr

from eventlog.backlog import ids_on_the_way
from local.stripe.simulator.books import Json, StripeEvent
from local.stripe.simulator.server import Fault
from recovery.reconcile.events import Reconciler, ReconcileRequest
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import Runs
from schemas.rate import RateLimit
from schemas.state import Row, User
from sinks.postgres.loading import SHAPES
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import parse_key
from sinks.stripe_api.listing import Lists
from tests.kits.auditkit import AuditKit, open_audit
from tests.kits.reconcilekit import QUICK
from tests.oracle.people import user_faults
from tests.oracle.stripe_books import disagreements

WITHIN = timedelta(days=28)
"""Stripe lists the events of 30 days."""


async def _reconcile(kit: AuditKit) -> ReconcileReport:
    """Run the reconciliation of the whole window, with a client that gives up a request after half a second."""
    settings = kit.desk.settings
    api = StripeApi(parse_key(SecretStr(kit.server.key)), kit.server.url, connect_s=1.0, total_s=0.5)
    runs = await Runs.connect(settings.database_url)
    reconciler = Reconciler(
        lists=Lists(api, RateLimit(100), timetable=QUICK, chance=lambda: 0.5),
        runs=runs,
        event_log=kit.desk.log,
        on_the_way=partial(ids_on_the_way, settings.kafka, f"{settings.topic_prefix}.worker", settings.events_topic),
        clock=lambda: datetime.now(UTC),
        most=60,
    )
    try:
        (report,) = await reconciler.run(ReconcileRequest(since=datetime.now(UTC) - WITHIN), [""])
        return report
    finally:
        runs.close()
        await api.close()


async def _fetch(kit: AuditKit, query: str) -> list[asyncpg.Record]:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        kit.desk.settings.database_url.get_secret_value(), timeout=30
    )
    try:
        return list(await connection.fetch(query, timeout=30))
    finally:
        await connection.close(timeout=30)


async def _waiting(kit: AuditKit) -> list[Json]:
    rows = await _fetch(kit, "SELECT payload FROM billing.events WHERE outcome = 'waiting' ORDER BY created")
    return [orjson.loads(row["payload"]) for row in rows]


async def _differing(kit: AuditKit) -> list[str]:
    rows: dict[type[Row], list[Any]] = {}
    for kind, shape in SHAPES.items():
        found = await _fetch(kit, f"SELECT {shape.selected} FROM {shape.table.fullname} AS t")
        rows[kind] = [shape.row(one) for one in found]
    return [*disagreements(rows.__getitem__, kit.books, kit.config), *user_faults(rows[User], kit.books)]


def _lost(events: Sequence[StripeEvent], since: datetime) -> set[str]:
    """Half of the events of the window, the same in each run."""
    listed = [event.id for event in events if event.created >= since.timestamp() + 3600]
    return set(random.Random(7).sample(listed, len(listed) // 2))


async def test_D7_what_was_lost_is_found_despite_faults(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str
) -> None:
    """Single failures are retried; a lasting one ends the run, and the next one resumes it."""
    async with open_audit(kafka_bootstrap, database, topic_prefix) as kit:
        events = kit.company.stripe.events()
        lost = _lost(events, datetime.now(UTC) - WITHIN)
        assert len(lost) > 100
        await kit.apply(event.render() for event in events if event.id not in lost)
        assert await _differing(kit) != []

        kit.server.retry_after_s, kit.server.slow_s = 0, 0.0
        answered = [Fault.SLOW] * 4
        single = [Fault.RATE_LIMIT, *answered, Fault.SERVER_ERROR, *answered, Fault.DROP, *answered]
        fed = 0
        for trouble in ([*single, *[Fault.SERVER_ERROR] * 4], [*answered, *[Fault.HANG] * 4]):
            kit.server.faults.extend(trouble)
            stopped = await _reconcile(kit)
            assert stopped.trouble is not None
            kit.server.faults.clear()
            fed += stopped.fed
        assert 0 < fed < len(lost)
        resumed = await _reconcile(kit)
        assert (resumed.trouble, fed + resumed.fed) == (None, len(lost))
        assert resumed.resumed_at is not None
        assert Counter(await kit.desk.ids()) == Counter(lost)

        await kit.process_log()
        await kit.apply(await _waiting(kit))  # as the waiting room does by time
        assert await _differing(kit) == []
        assert (await kit.audit()).differences == []
