"""Changes of a subscription within one second are put in the order in which they happened."""

from __future__ import annotations

from itertools import permutations

import orjson
import pytest

from analytics.compute import figures_of
from analytics.facts import fact_of
from schemas.figures import Movement
from tests.kits.analyticskit import BASIC, BEGIN, CONFIG, make


def change(id_: str, status: str, was: str | None) -> bytes:
    obj = make.subscription("sub_1", price=BASIC, status=status, start=BEGIN)
    previous = {"latest_invoice": None} | ({"status": was} if was else {})
    return orjson.dumps(make.event("customer.subscription.updated", obj, BEGIN, previous=previous, id_=id_))


@pytest.mark.parametrize("ids", list(permutations(["evt_1", "evt_2", "evt_3"])))
def test_the_last_change_of_a_second_counts_whatever_the_ids(ids: tuple[str, ...]) -> None:
    """The invoice was made, the payment succeeded, and then something else changed."""
    changes = [("incomplete", None), ("active", "incomplete"), ("active", None)]
    values = [change(id_, status, was) for id_, (status, was) in zip(ids, changes, strict=True)]
    facts = [fact for value in values if (fact := fact_of(value)) is not None]
    for arrived in permutations(facts):
        rows = [row for row in figures_of(arrived, CONFIG) if isinstance(row, Movement)]
        assert sum(row.amount for row in rows) == 1000
