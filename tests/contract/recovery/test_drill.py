"""The whole way of a running business into this system, as docs/going-live.md describes it (behaviours.md F1, F2).

Stripe and an old handler's table ─▶ import ─▶ shadow for a week ─▶ report ─▶ switch ─▶ the books agree.

`make drill` runs it with 2,000 customers and prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import csv
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from pydantic import SecretStr

from sinks.postgres.tables import HELD
from tests.chaos.log import LogReader
from tests.kits.drillkit import MONTH_S, WEEK, old_rows, open_drill
from tests.kits.reconcilekit import events, open_kit, send

CUSTOMERS = int(os.environ.get("BILLING_DRILL", "40"))
MONTHS = 4


async def test_the_log_is_read_on_from_where_the_last_reading_ended(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str
) -> None:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        log = LogReader(kafka_bootstrap, desk.settings.events_topic)
        for first, count in ((0, 30), (30, 0), (30, 20), (50, 1)):
            listed = events(count, first=first) if count else []
            await send(desk, listed)
            read = await asyncio.to_thread(log.read)
            assert sorted(record.headers["event_id"] for record in read) == [one["id"] for one in listed]
            assert read == sorted(read, key=lambda record: (record.partition, record.offset))


async def test_F2_a_business_changes_over_and_no_one_is_mailed_about_the_past(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_drill(
        kafka_bootstrap, database, topic_prefix, tmp_path, customers=CUSTOMERS, months=MONTHS
    ) as drill:
        began = drill.now
        months = [began - timedelta(seconds=MONTH_S * back) for back in range(MONTHS)]

        await drill.billing("shadow", "begin")
        with drill.step("import"):
            report = await drill.import_(began - timedelta(days=400))
        assert report.read["customers"] > 0
        with drill.step("shadow"):
            await drill.live(drill.now + timedelta(hours=6))  # what came before something it refers to is tried again
        assert not drill.dead
        with drill.step("audit"):
            first = await drill.audit()
        assert first.agrees, first.differences

        with drill.step("shadow"):
            await drill.live(began + timedelta(days=WEEK))
        assert not drill.dead
        statuses = await drill.rows(
            "SELECT status, count(*) AS rows FROM ("
            "SELECT status FROM billing.emails UNION ALL SELECT status FROM billing.notifications"
            " UNION ALL SELECT status FROM billing.exports"
            " UNION ALL SELECT status FROM billing.stripe_calls WHERE method <> 'GET') every GROUP BY 1"
        )
        left = {"sent", "sending", "done", "calling", "working"}
        assert not {row["status"] for row in statuses} & left, statuses
        assert drill.mailbox.messages == []
        assert drill.receiver.got == []
        assert {asked.method for asked in drill.server.requests} == {"GET"}

        wrong = {one["id"]: "unpaid" for one in drill.books.all("subscription") if one["status"] == "active"}
        wrong = dict(sorted(wrong.items())[:3])
        old = tmp_path / "old.csv"
        with old.open("w", newline="") as file:
            csv.writer(file).writerows([("sub", "owner", "state"), *old_rows(drill.books, wrong)])
        options = ["--against", str(old), "--key", "subscription_id=sub", "--column", "status=state"]
        options += ["--column", "customer_id=owner", "--list", "mail", "--json", "--since", f"{began:%Y-%m-%d}"]
        with drill.step("report"):
            found = orjson.loads(await drill.billing("shadow", "report", *options, code=1))
        assert {one["key"]: list(one["fields"]) for one in found["compared"]["differences"]} == {
            id_: ["status"] for id_ in wrong
        }
        held = Counter({one["outbox"]: one["count"] for one in found["held"]})
        assert held["notifications"] > 0
        assert sum(held.values()) > 0

        await drill.billing("shadow", "end", "--keep")
        switched = drill.now
        with drill.step("live"):
            await drill.live(datetime.fromtimestamp(drill.company.until, UTC))
        assert not drill.dead
        with drill.step("audit"):
            audited = await drill.audit()
        assert audited.agrees, audited.differences

        sent = await drill.rows(
            "SELECT event_id, template, m.status, last_error, queued_at, created FROM billing.emails m"
            " LEFT JOIN billing.events USING (event_id)"
        )
        leaving = [row for row in sent if row["status"] == "sent"]
        assert len(leaving) == len(drill.mailbox.messages)
        # Also no reminder: one that was still ahead is caused by its timer, which was due after the switch, or overdue
        # as soon as it was set, after the switch, as that of a trial of two days.
        set_at = await drill.timers_set_at()
        of_past = [
            row
            for row in leaving
            if row["queued_at"] < switched
            or row["created"] is None
            or max(row["created"], set_at.get(row["event_id"], row["created"])) < switched
        ]
        assert of_past == []
        failed = [row["last_error"] for row in sent if row["status"] == "failed"]
        assert [reason for reason in failed if "address is still unknown" not in reason] == []
        kept = [row for row in sent if row["last_error"] == HELD]
        assert {row["status"] for row in kept} <= {"withheld"}

        with drill.step("mrr"):
            ours, true = await drill.mrr([*months, drill.now]), drill.true_mrr([*months, drill.now])
        newly = drill.discounted_since(began)
        unknowable = drill.changed_without_invoice() | newly | drill.discounted_until(began)
        of_now = {owner: values[-1] for owner, values in ours.items() if values[-1] and owner not in newly}
        assert of_now == {owner: values[-1] for owner, values in true.items() if values[-1] and owner not in newly}
        shown = {owner: values for owner, values in ours.items() if owner not in unknowable and any(values)}
        assert shown == {owner: values for owner, values in true.items() if owner not in unknowable and any(values)}
        assert shown
        figures = {
            "customers": report.read["customers"],
            "events of Stripe": len(drill.books.events),
            "imported": report.appended,
            "verdicts": drill.verdicts,
            "audited": audited.counts,
            "withheld": held,
            "mails": len(drill.mailbox.messages),
            "mails about the past": len(of_past),
            "customers with the right MRR now": len(of_now),
            "customers with the right MRR of each month": len(shown),
            "seconds": {name: round(seconds, 1) for name, seconds in drill.seconds.items()},
        }
        print(f"\n{orjson.dumps(figures).decode()}")  # noqa: T201  # `make drill` shows what docs/going-live.md states
