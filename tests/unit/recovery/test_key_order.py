from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from recovery.repartition.order import KeyOrder
from schemas.record import Record, record_of


def _record(key: str | None, number: int, partition: int = 0) -> Record:
    headers = (("event_id", f"evt_{number}".encode()),)
    return record_of("events", partition, number, None if key is None else key.encode(), b"{}", headers, 1.0)


def _order(*records: Record) -> KeyOrder:
    order = KeyOrder()
    order.add(records)
    return order


@given(st.lists(st.sampled_from("abc"), max_size=20), st.randoms(use_true_random=False))
def test_T16_two_readings_are_equal_exactly_if_each_key_has_its_order(keys: list[str], chance: random.Random) -> None:
    records = [_record(key, number) for number, key in enumerate(keys)]
    shuffled = records.copy()
    chance.shuffle(shuffled)

    differing = _order(*records).differing(_order(*shuffled))

    def ids(found: list[Record], key: str) -> list[str]:
        return [record.headers["event_id"] for record in found if record.key == key.encode()]

    assert differing == sum(ids(records, key) != ids(shuffled, key) for key in set(keys))


def test_T16_a_missing_record_and_an_additional_one_differ() -> None:
    assert _order(_record("a", 1)).differing(_order(_record("a", 1), _record("a", 2))) == 1
    assert _order(_record("a", 1)).differing(_order(_record("a", 1), _record("b", 2))) == 1


def test_T16_a_key_in_two_partitions_is_named() -> None:
    assert _order(_record("a", 1), _record("a", 2, partition=3), _record("b", 3)).scattered == {b"a"}


def test_T16_records_without_a_key_have_no_order_and_are_counted() -> None:
    order = _order(_record(None, 1), _record(None, 2, partition=1))
    assert (order.records, order.keys, order.scattered) == (2, 0, set())
