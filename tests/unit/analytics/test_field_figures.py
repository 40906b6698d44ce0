"""The figures of the cases under tests/field: MRR at the end, what was paid, and what was refunded."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from analytics.compute import figures_of
from analytics.facts import fact_of
from schemas.figures import Movement, PaymentFigure, PaymentKind
from schemas.settings import Config, Plan
from tests.field.harness import events

ANY_PLAN = Config(plans={"pro": Plan(name="Pro")})


@pytest.mark.parametrize(
    ("number", "mrr", "paid", "refunded"),
    [
        ("01", {"eur": 0}, 4000, 0),
        ("15", {"eur": 2000}, 2000, 300),
        ("16", {"eur": 2000}, 2000, 0),
        ("25", {}, 1800, 0),
        ("61", {}, 10_000, 10_000),
        ("63", {}, 4900, 0),
        ("66", {"eur": 2000}, 2000, 600),
        ("67", {"eur": 3167}, 0, 0),
        ("68", {"eur": 20_000}, 20_000, 0),
        ("99", {}, 6000, 0),
    ],
)
def test_E2_figures_of(number: str, mrr: dict[str, int], paid: int, refunded: int) -> None:
    facts = [found for event in events(number) if (found := fact_of(orjson.dumps(event))) is not None]
    owners = {fact.of for fact in facts}
    rows = [row for owner in owners for row in figures_of([fact for fact in facts if fact.of == owner], ANY_PLAN)]
    earning: Counter[str] = Counter()
    sums: Counter[bool] = Counter()
    for row in rows:
        if isinstance(row, Movement):
            earning[row.currency] += row.amount
        elif isinstance(row, PaymentFigure) and row.kind is not PaymentKind.FAILED:
            sums[row.kind is PaymentKind.REFUND] += row.amount
    assert (dict(earning), sums[False], sums[True]) == (mrr, paid, refunded)
