"""A customer with hundreds of open timers costs what any other does: only those that an event is about are loaded."""

from __future__ import annotations

from dataclasses import replace as with_fields
from datetime import timedelta
from typing import Any

import orjson
import pytest

from local.stripe.builder import ApiShape, StripeEvents
from local.stripe.events import EXAMPLES, example
from schemas.record import Record, record_of
from schemas.references import References
from schemas.state import Row, Timer
from schemas.verdict import Applied
from sinks.postgres.rows import Flush
from sinks.postgres.store import Transaction
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.contract.streams.test_process import bench
from tests.kits.notes import note_headers
from tests.kits.processorkit import TOPIC, ProcessorKit
from tests.kits.rulekit import CONFIG, NOW, at
from tests.kits.storekit import known, write

__all__ = ["bench"]

MANY = 500
MAKE = StripeEvents(ApiShape.NEW)


def reminder(subject: str) -> Timer:
    return Timer(
        timer_key=f"dunning-reminder::{subject}:payment-failed",
        account="",
        customer_id="cus_1",
        kind="dunning-reminder",
        subject=subject,
        due_at=at(NOW) + timedelta(days=3),
        event_id="evt_0",
    )


@pytest.fixture
async def processor(bench: ProcessorKit) -> Processor:
    processor = with_fields(bench.processor, rules=RULES, config=CONFIG)
    await write(processor.store, Flush(known(*(reminder(f"in_other_{n}") for n in range(MANY)), reminder("in_1"))))
    return processor


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[list[Row]]:
    """The rows of each load of a batch."""
    found: list[list[Row]] = []
    load = Transaction.load

    async def noted(self: Transaction, refs: References) -> list[Row]:
        found.append(await load(self, refs))
        return found[-1]

    monkeypatch.setattr(Transaction, "load", noted)
    return found


async def test_no_event_loads_the_timers_of_other_invoices(processor: Processor, loads: list[list[Row]]) -> None:
    """Each event that this project has a rule for, about the customer with the timers, alone and all in one batch."""
    records = [record(example(type_, NOW, MAKE), n) for n, type_ in enumerate(sorted(EXAMPLES))]
    for one in records:
        await processor.process([one])
    again = [record(example(type_, NOW + 60, MAKE), n + len(records)) for n, type_ in enumerate(sorted(EXAMPLES))]
    await processor.process(again)
    loaded = {row.timer_key for rows in loads for row in rows if isinstance(row, Timer)}
    assert len(loads) > len(records)
    assert not [key for key in loaded if "in_other_" in key]


async def test_a_paid_invoice_loads_and_cancels_its_own_timer(
    bench: ProcessorKit, processor: Processor, loads: list[list[Row]]
) -> None:
    paid = MAKE.event("invoice.paid", MAKE.invoice(id="in_1", customer="cus_1", status="paid"), NOW)
    (verdict,) = await processor.process([record(paid, 0)])
    assert verdict == Applied()
    assert [row for rows in loads for row in rows if isinstance(row, Timer)] == [reminder("in_1")]
    found = await bench.rows("SELECT status, count(*) AS n FROM billing.timers GROUP BY status ORDER BY status")
    assert found == [{"status": "cancelled", "n": 1}, {"status": "pending", "n": MANY}]


def record(event: dict[str, Any], offset: int) -> Record:
    headers = note_headers(event["id"], event["type"]).encode()
    return record_of(TOPIC, 0, offset, b"cus_1", orjson.dumps(event), headers, float(NOW))
