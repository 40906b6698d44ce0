"""No content of a record stops its partition: what the ledger cannot hold is cut (behaviours.md D4, trust T1, G16)."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from schemas.record import Record, record_of
from schemas.verdict import Applied, Dead
from streams.brake import Brake, Limits
from streams.rules.catalog import RULES
from tests.contract.streams.test_process import bench
from tests.kits.processorkit import TOPIC, ProcessorKit, note

if TYPE_CHECKING:
    from schemas.record import Headers

__all__ = ["bench"]

HOSTILE = ["\0", "cus_\0x", "x" * 10_000, "".join(map(chr, range(1, 32))), "\u202e" + "é" * 300, "evt_\ud7ff"]
FIELDS = ["id", "type", "object", "account", "context", "api_version", "created", "livemode", "request"]
NESTED = ["id", "object", "customer", "status", "currency", "invoice", "subscription", "payment_intent"]
HEADERS = ["event_id", "type", "source", "account", "endpoint", "received_at", "replay_of", "api_version"]


def _event(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"evt_bad_{n}",
        "object": "event",
        "type": "invoice.paid",
        "created": 1_700_000_000,
        "livemode": False,
        "data": {"object": {"id": f"in_{n}", "object": "invoice", "customer": "cus_1"}},
    } | changes


def _records() -> list[Record]:
    numbers = count()
    bodies = [_event(next(numbers), **{name: value}) for name in FIELDS for value in (*HOSTILE, 2**64 - 1, 1e308, [[]])]
    for name in NESTED:
        for value in (*HOSTILE, {"id": "x" * 9_000}, {"id": "\0"}, -(2**63)):
            body = _event(next(numbers))
            body["data"]["object"][name] = value
            bodies.append(body)
    bodies.append(_event(next(numbers), created="0001-01-01T00:00:00+23:00", object="v2.core.event"))
    records = [
        record_of(TOPIC, 0, at, b"k", orjson.dumps(body), (("event_id", b"evt"),), 1.7e9)
        for at, body in enumerate(bodies)
    ]
    for name in HEADERS:
        for text in (b"\0", b"x" * 9_000, b"\xff\xfe", b"a\nb", b"0001-01-01T00:00:00+23:00"):
            valid = orjson.dumps(_event(next(numbers)))
            records.append(record_of(TOPIC, 0, len(records), b"k", valid, ((name, text),), 9.2e15))
            records.append(record_of(TOPIC, 0, len(records), b"k", b"{", ((name, text),), -9.2e15))
    odd: tuple[tuple[tuple[str, bytes | None], ...], ...] = (
        (("event_id", b"evt_a"), ("event_id", b"evt_b"), ("source", b"replay"), ("source", b"timer")),
        (("event_id", None), ("source", None), ("received_at", None)),
        (("x" * 5_000, b"v"), ("", b""), ("\u202e", b"\xff")),
        tuple((f"h{number}", b"v") for number in range(300)),
        (),
    )
    for headers in odd:
        twice = b'{"id":"evt_x","id":"evt_twice_%d",' % next(numbers) + orjson.dumps(_event(0))[18:]
        for key, content in ((None, None), (b"", b""), (b"\xff" * 9_000, twice), (b"k", b"[" * 900 + b"]" * 900)):
            # The values of Kafka's headers may be null.
            records.append(record_of(TOPIC, 0, len(records), key, content, cast("Headers", headers), 1.7e9))
    return records


async def test_each_hostile_record_is_settled_and_ordinary_ones_are_applied(bench: ProcessorKit) -> None:
    processor = replace(
        bench.processor, rules={**bench.processor.rules, **RULES}, brake=Brake(Limits(run=10**6, least=10**6))
    )
    records = _records()
    ordinary = [replace_offset(note(f"evt_good_{n}", 0, text=str(n)), len(records) + n) for n in range(36)]

    verdicts = await processor.process([*records, *ordinary])

    assert len(verdicts) == len(records) + 36
    assert verdicts[-36:] == [Applied()] * 36
    rows = await bench.rows("select event_id, type, account, customer_id, source, endpoint, reason from billing.events")
    assert max(len(str(row[name]).encode()) for row in rows for name in row if name != "reason") <= 255
    letters = await bench.rows('select "offset" from billing.dead_letters')
    dead = {at for at, verdict in enumerate(verdicts) if isinstance(verdict, Dead)}
    assert {row["offset"] for row in letters} == dead


def replace_offset(record: Record, offset: int) -> Record:
    return record_of(
        record.topic, record.partition, offset, record.key, record.value, record.raw_headers, record.timestamp
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "plan.updated", "api_version": "\0"},
        {"type": "plan.updated", "data": {"object": {"customer": "cus_" + "a8" * 4_000}}},
        {"data": {"object": {"id": "in_1", "customer": "cus_\0x"}}},
        {"data": {"object": {"id": "in_1", "customer": "c" * 9_000}}},
    ],
)
async def test_inputs_that_once_stopped_every_worker_have_one_letter_with_their_bytes(
    bench: ProcessorKit, changes: dict[str, Any]
) -> None:
    value = orjson.dumps(_event(1, **changes))
    processor = replace(bench.processor, rules={**bench.processor.rules, **RULES})
    verdicts = await processor.process([record_of(TOPIC, 0, 0, b"k", value, (), 1.7e9), note("evt_2", 1)])

    assert isinstance(verdicts[0], Dead)
    assert verdicts[1] == Applied()
    (letter,) = bench.letters(1)
    assert letter.value() == value
    assert (await bench.outcomes())["evt_bad_1"] == "dead"


async def test_what_the_store_refuses_even_of_the_burial_leaves_id_place_and_outcome(bench: ProcessorKit) -> None:
    """The constraint is an example of a refusal that the bounds on texts do not know."""
    await bench.rows("ALTER TABLE billing.dead_letters ADD CHECK (message NOT LIKE '%not allowed%')")
    await bench.rows("ALTER TABLE billing.events ADD CHECK (customer_id <> 'cus_u1' OR outcome <> 'dead')")

    verdicts = await bench.processor.process([note("evt_1", 0, trouble="rule"), note("evt_2", 1, user="u2")])

    assert isinstance(verdicts[0], Dead)
    assert verdicts[1] == Applied()
    (row,) = await bench.rows(
        "select event_id, outcome, customer_id, \"offset\" from billing.events where outcome='dead'"
    )
    assert row == {"event_id": "evt_1", "outcome": "dead", "customer_id": None, "offset": 0}
    (letter,) = await bench.rows("select event_id, dead_offset from billing.dead_letters")
    assert letter["event_id"] == "evt_1"
    assert letter["dead_offset"] is not None


async def test_a_record_named_by_an_operator_is_buried_unread(bench: ProcessorKit) -> None:
    processor = replace(bench.processor, bury=frozenset({(TOPIC, 0, 0)}))
    verdicts = await processor.process([note("evt_1", 0), note("evt_2", 1)])
    assert verdicts == [Dead("Unforeseen", "buried by an operator", "store"), Applied()]
    assert await bench.outcomes() == {"evt_1": "dead", "evt_2": "applied"}


async def test_a_record_too_large_for_a_letter_leaves_one_that_points_to_it(bench: ProcessorKit) -> None:
    """Only a compressed record of a foreign producer can be larger than its topic's limit."""
    huge = b'{"id":"evt_1","type":' + b" " * 5_000_000
    verdicts = await bench.processor.process([record_of(TOPIC, 0, 0, b"k", huge, (), 1.7e9), note("evt_2", 1)])
    assert isinstance(verdicts[0], Dead)
    (letter,) = bench.letters(1)
    named = {name: text.decode() for name, text in letter.headers()}
    assert letter.value() is None
    assert (named["dead_topic"], named["dead_offset"]) == (TOPIC, "0")
    assert named["dead_left_out"].startswith(f"{len(huge)} bytes")


@pytest.mark.parametrize(
    "type_", ["customer.subscription.updated", "invoice.paid", "payout.failed", "customer.deleted"]
)
async def test_ledger_and_letter_of_a_malformed_event_name_the_same_stream(bench: ProcessorKit, type_: str) -> None:
    processor = replace(bench.processor, rules=RULES)
    value = orjson.dumps(_event(1, type=type_, data={"object": {"id": 7, "status": 7}}))
    (verdict,) = await processor.process([record_of(TOPIC, 0, 0, b"k", value, (), 1.7e9)])
    assert isinstance(verdict, Dead)
    (found,) = await bench.rows(
        "select e.stream as ledger, d.stream as letter from billing.events e"
        " join billing.dead_letters d using (event_id)"
    )
    assert found["ledger"] == found["letter"] == RULES[type_].stream


NUMBERS = [
    b"1e-20000",
    b"1E400",
    b"-1e400",
    b"1e-400",
    b"5e-324",
    b"1.7976931348623157e308",
    b"-0.0",
    b"-0",
    b"9" * 300,
    b"9" * 5_000,
    b"0." + b"0" * 20_000 + b"1",
    b"0." + b"1" * 20_000,
    b"18446744073709551616",
    b"1e5",
    b"4.0",
]
TOO_LONG = {b"1E400", b"-1e400", b"9" * 5_000, b"0." + b"0" * 20_000 + b"1", b"0." + b"1" * 20_000}
"""Numbers that are no double, or that Postgres refuses."""
PLACES = [
    b'"unknown":%s',
    b'"amount_due":%s',
    b'"created":%s',
    b'"metadata":{"a":[%s]}',
    b'"lines":{"data":[{"amount":%s}]}',
    b'"status":%s',
]


async def test_each_number_of_json_is_applied_or_buried(bench: ProcessorKit) -> None:
    """Postgres cannot store each: `numeric` has at most 16,383 digits after the point, also inside jsonb."""
    processor = replace(
        bench.processor, rules={**bench.processor.rules, **RULES}, brake=Brake(Limits(run=10**6, least=10**6))
    )
    plain = orjson.dumps(_event(0, type="plan.updated")).replace(b'"evt_bad_0"', b'"evt_number_%d"')
    bodies = [
        (plain % at).replace(b'"customer"', place % number + b',"customer"')
        for at, (number, place) in enumerate((number, place) for number in NUMBERS for place in PLACES)
    ]
    bodies += [plain.replace(b"1700000000", number) % (1_000 + at) for at, number in enumerate(NUMBERS)]
    bodies += [orjson.dumps(_event(at)).replace(b"1700000000", number) for at, number in enumerate(NUMBERS)]
    records = [record_of(TOPIC, 0, at, b"k", body, (), 1.7e9) for at, body in enumerate(bodies)]
    ordinary = [replace_offset(note(f"evt_good_{n}", 0, text=str(n)), len(records) + n) for n in range(10)]

    verdicts = await processor.process([*records, *ordinary])

    assert verdicts[-10:] == [Applied()] * 10
    dead = {at for at, verdict in enumerate(verdicts) if isinstance(verdict, Dead)}
    assert {row["offset"] for row in await bench.rows('select "offset" from billing.dead_letters')} == dead
    kept = {number for at, number in enumerate(n for n in NUMBERS for _ in PLACES) if at not in dead}
    assert kept == set(NUMBERS) - TOO_LONG
