"""What a comparison holds in memory while it reads the ledger."""

from __future__ import annotations

from recovery.rebuild import comparison
from recovery.rebuild.comparison import MOST, DatabaseDiff, RowDifference, Undecided


def compared(customers: list[str], excused: str) -> tuple[DatabaseDiff, int]:
    """The result of a ledger in which each event differs, and how many differences were held at most."""
    undecided, held = Undecided(), 0
    for at, customer in enumerate(customers):
        row = {"account": "", "customer_id": customer}
        undecided.add(RowDifference("events", (f"evt_{at:06d}",), {"type": (1, 2)}), row, row)
        held = max(held, sum(map(len, undecided.listed.values())))
    found = DatabaseDiff()
    undecided.decide({("", excused): "erased"}, found)
    return found, held


def test_a_column_that_always_differs_is_counted_and_not_held() -> None:
    """Of a customer without an excuse something is listed, although the first ones have thousands of differences."""
    customers = ["cus_excused"] * 9_000 + [f"cus_{at % 3000:04d}" for at in range(12_000)]
    found, held = compared(customers, "cus_excused")
    assert held <= comparison.MOST_HELD + 1
    assert found.excused["erased"]["events"] == 9_000
    assert found.different["events"] == 12_000
    assert len(found.differences) == MOST
    assert found.differences[0].key == ("evt_009000",)


def test_one_customers_differences_are_all_listed() -> None:
    found, _ = compared(["cus_1"] * 900 + ["cus_excused"] * 5000, "cus_excused")
    assert [one.key for one in found.differences] == [(f"evt_{at:06d}",) for at in range(900)]
