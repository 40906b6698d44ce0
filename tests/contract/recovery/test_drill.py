"""The whole way of a running business into this system, as docs/going-live.md describes it (behaviours.md F1, F2).

Stripe and an old handler's table ─▶ import ─▶ shadow for a week ─▶ report ─▶ switch ─▶ the books agree.

`make drill` runs it with 2,000 customers.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from pydantic import SecretStr

from sinks.postgres.tables import HELD
from tests.kits.drillkit import MONTH_S, WEEK, old_rows, open_drill

CUSTOMERS = int(os.environ.get("BILLING_DRILL", "40"))
MONTHS = 4


async def test_F2_a_business_changes_over_and_no_one_is_mailed_about_the_past(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_drill(
        kafka_bootstrap, database, topic_prefix, tmp_path, customers=CUSTOMERS, months=MONTHS
    ) as drill:
        began = drill.now
        months = [began - timedelta(seconds=MONTH_S * back) for back in range(MONTHS)]

        await drill.billing("shadow", "begin")
        report = await drill.import_(began - timedelta(days=400))
        assert report.read["customers"] > 0
        await drill.live(drill.now + timedelta(hours=6))  # what came before something it refers to is tried again
        assert not drill.dead
        first = await drill.audit()
        assert first.agrees, first.differences

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
        found = orjson.loads(await drill.billing("shadow", "report", *options, code=1))
        assert {one["key"]: list(one["fields"]) for one in found["compared"]["differences"]} == {
            id_: ["status"] for id_ in wrong
        }
        held = Counter({one["outbox"]: one["count"] for one in found["held"]})
        assert held["notifications"] > 0
        assert sum(held.values()) > 0

        await drill.billing("shadow", "end", "--keep")
        switched = drill.now
        await drill.live(datetime.fromtimestamp(drill.company.until, UTC))
        assert not drill.dead
        audited = await drill.audit()
        assert audited.agrees, audited.differences

        sent = await drill.rows(
            "SELECT template, m.status, last_error, queued_at, created FROM billing.emails m"
            " LEFT JOIN billing.events USING (event_id)"
        )
        leaving = [row for row in sent if row["status"] == "sent"]
        assert len(leaving) == len(drill.mailbox.messages)
        assert [row for row in leaving if row["queued_at"] < switched] == []
        # Also no reminder: one that was still ahead is caused by its timer, which was due after the switch.
        assert [row for row in leaving if row["created"] is None or row["created"] < switched] == []
        failed = [row["last_error"] for row in sent if row["status"] == "failed"]
        assert [reason for reason in failed if "address is still unknown" not in reason] == []
        kept = [row for row in sent if row["last_error"] == HELD]
        assert {row["status"] for row in kept} <= {"withheld"}

        ours, true = await drill.mrr([*months, drill.now]), drill.true_mrr([*months, drill.now])
        newly = drill.discounted_since(began)
        unknowable = drill.changed_without_invoice() | newly | drill.discounted_until(began)
        of_now = {owner: values[-1] for owner, values in ours.items() if values[-1] and owner not in newly}
        assert of_now == {owner: values[-1] for owner, values in true.items() if values[-1] and owner not in newly}
        shown = {owner: values for owner, values in ours.items() if owner not in unknowable and any(values)}
        assert shown == {owner: values for owner, values in true.items() if owner not in unknowable and any(values)}
        assert shown
