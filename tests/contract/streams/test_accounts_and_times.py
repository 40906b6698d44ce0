"""What a batch takes from outside its events: the account that the brake sets aside, and Postgres' clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Self, cast

import orjson
import pytest
from structlog.testing import capture_logs

from schemas import timing
from schemas.record import Record, record_of
from streams.agent import Agent
from streams.brake import Brake, BrakeTripped
from tests.contract.streams.test_process import bench
from tests.kits.processorkit import ProcessorKit, note

if TYPE_CHECKING:
    from streams.faust.seen import SeenEvents

__all__ = ["bench"]

ASIDE = "worker.account_aside"


async def test_T17_times_are_postgres_own_whatever_the_machines_clock_shows(
    bench: ProcessorKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=1)

    monkeypatch.setattr(timing, "datetime", Ahead)
    await bench.processor.process([note("evt_1", 0), note("evt_2", 1, trouble="rule")])
    (times,) = await bench.rows(
        "SELECT (SELECT max(greatest(queued_at, next_attempt_at)) < clock_timestamp() FROM billing.emails) AS mails, "
        "(SELECT max(applied_at) < clock_timestamp() FROM billing.events) AS events, "
        "(SELECT max(last_failed_at) < clock_timestamp() FROM billing.dead_letters) AS letters"
    )
    assert times == {"mails": True, "events": True, "letters": True}


def of_account(record: Record, account: str) -> Record:
    """The same record as an event of a connected account."""
    value = orjson.dumps(orjson.loads(record.value or b"") | {"account": account})
    return record_of(
        record.topic, record.partition, record.offset, record.key, value, record.raw_headers, record.timestamp
    )


class NothingSeen:
    """The table of settled events of a worker that has just lost it."""

    def __contains__(self, place: object) -> bool:
        return False

    def mark(self, partition: int, first_offset: int, event_ids: object) -> None:
        """Is asked about nothing twice."""


async def test_T9_malformed_events_of_one_connected_account_stop_no_other(bench: ProcessorKit) -> None:
    """With the limits that a worker has by default. Broken rules are another matter: they may be the code's fault.

    An error line names the account once, each time it is set aside.
    """
    brake = Brake()
    agent = Agent(
        processor=replace(bench.processor, brake=brake),
        seen=cast("SeenEvents", NothingSeen()),
        stream_of=lambda _: "customers",
        streams=frozenset(),
    )
    bad = [of_account(note(f"evt_bad_{n}", n, user=17), "acct_1") for n in range(60)]
    good = [note(f"evt_good_{n}", 60 + n, text=str(n)) for n in range(20)]
    own = [of_account(note(f"evt_own_{n}", 80 + n, text=str(n)), "acct_1") for n in range(50)]
    more = [of_account(note(f"evt_more_{n}", 130 + n, user=17), "acct_1") for n in range(60)]
    named = []
    for records in (bad[:25], bad[25:], good, own, more):
        with capture_logs() as logs:
            await agent.handle(records)
        named.append([(line["log_level"], line["account"]) for line in logs if line.get("action") == ASIDE])
    assert named == [[("error", "acct_1")], [], [], [], [("error", "acct_1")]]
    assert Counter((await bench.outcomes()).values()) == {"dead": 120, "applied": 70}
    assert brake.aside == {"acct_1"}

    for accounts, fault in ((3, "rule"), (1, "rule"), (1, "bug")):
        broken = [of_account(note(f"evt_{n}", 200 + n, trouble=fault), f"acct_{n % accounts}") for n in range(60)]
        with pytest.raises(BrakeTripped):
            await replace(bench.processor, brake=Brake()).process(broken)
