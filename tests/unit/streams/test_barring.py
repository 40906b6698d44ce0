"""Whose events are looked up among the erased: only those of customers whose row is not loaded anyway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import orjson

from schemas.known import Known
from schemas.record import record_of
from schemas.references import Ref
from schemas.settings import Config
from schemas.state import Customer
from sinks.postgres.rows import Erased
from sinks.postgres.store import Transaction
from streams.barring import find_erased
from streams.decode import decode
from streams.item import Item


class Asked:
    """Notes what it is asked, in place of a transaction."""

    async def erased(self, customers: Iterable[Ref], named: Iterable[Ref]) -> Erased:
        self.customers, self.named = set(customers), set(named)
        return Erased({}, {})


def item(**fields: str) -> Item:
    event = {"id": "evt_1", "type": "plan.updated", "data": {"object": fields}}
    record = record_of("billing.events", 0, 0, b"k", orjson.dumps(event), (), 1.7e9)
    return Item(record, decode(record.value, {}))


async def test_B6_a_loaded_customer_is_not_looked_up_again() -> None:
    asked, known = Asked(), Known(Config(), [Customer(account="", customer_id="cus_1")])
    items = [item(id="x", customer="cus_1"), item(id="y", customer="cus_2"), item(id="dp_1", charge="ch_1")]
    await find_erased(items, known, cast("Transaction", asked))
    assert asked.customers == {("", "cus_2")}
    assert asked.named == {("", "dp_1"), ("", "ch_1")}
