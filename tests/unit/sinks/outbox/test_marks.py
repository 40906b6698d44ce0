"""Results that are stored together, answers that are asked for together, and the size of a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.errors import StoreRefused, StoreUnavailable
from sinks.outbox import claim_size, truth
from sinks.outbox import marks as marks_module
from sinks.outbox.claim_size import ClaimSize
from sinks.outbox.marks import Marks
from sinks.outbox.truth import Answer, Answers
from sinks.outbox.verdicts import Withheld


class Store:
    """Stores marks once it is allowed to, and notes each statement."""

    def __init__(self) -> None:
        self.statements: list[list[str]] = []
        self.error: Exception | None = None
        self.refused: str | None = None
        self.lost: set[str] = set()
        self.may_go_on = asyncio.Event()

    async def __call__(self, _kind: str, marks: Collection[str]) -> Collection[str]:
        self.statements.append(sorted(marks))
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        if self.refused in marks:
            raise StoreRefused("a value")
        return set(marks) - self.lost


async def add_all(marks: Marks[str, str], keys: str, kind: str = "sent") -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(marks.add(kind, key, key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def test_results_that_come_during_a_statement_are_the_next_one() -> None:
    store = Store()
    marks: Marks[str, str] = Marks(store)
    store.lost = {"c"}
    tasks = await add_all(marks, "a") + await add_all(marks, "bcd") + await add_all(marks, "x", kind="deleted")
    store.may_go_on.set()
    assert await asyncio.gather(*tasks) == [True, True, False, True, True]
    assert store.statements == [["a"], ["b", "c", "d"], ["x"]]


async def test_a_result_waits_for_those_of_deliveries_that_are_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_module, "GATHER_S", 600.0)
    store, in_flight = Store(), ["b", "c"]
    store.may_go_on.set()
    marks: Marks[str, str] = Marks(store, lambda: len(in_flight))
    tasks = await add_all(marks, "a")
    for _ in range(2):
        tasks += await add_all(marks, in_flight.pop(0))
    assert await asyncio.gather(*tasks) == [True] * 3
    assert store.statements == [["a", "b", "c"]]


async def test_a_result_does_not_wait_long_for_a_slow_delivery() -> None:
    store = Store()
    store.may_go_on.set()
    marks: Marks[str, str] = Marks(store, lambda: 1)
    assert await asyncio.wait_for(marks.add("sent", "a", "a"), 60)


async def test_a_store_that_is_away_fails_all_results_of_the_statement_and_no_later_one() -> None:
    store = Store()
    marks: Marks[str, str] = Marks(store)
    store.error = StoreUnavailable("away")
    store.may_go_on.set()
    first = await asyncio.gather(*await add_all(marks, "ab"), return_exceptions=True)
    assert [type(error) for error in first] == [StoreUnavailable] * 2
    store.error = None
    assert await asyncio.gather(*await add_all(marks, "ab")) == [True, True]


async def test_a_refused_result_fails_no_other() -> None:
    store = Store()
    marks: Marks[str, str] = Marks(store)
    store.refused = "b"
    store.may_go_on.set()
    ends = await asyncio.gather(*await add_all(marks, "abc"), return_exceptions=True)
    assert [end if isinstance(end, bool) else type(end) for end in ends] == [True, StoreRefused, True]


async def test_a_lane_that_is_cancelled_during_the_statement_takes_no_result_with_it() -> None:
    store = Store()
    marks: Marks[str, str] = Marks(store)
    (first,) = await add_all(marks, "a")
    others = await add_all(marks, "bc")
    first.cancel()
    others[0].cancel()
    store.may_go_on.set()
    assert await others[1]
    assert store.statements[-1] == ["b", "c"]


class _Claims:
    @asynccontextmanager
    async def connection(self) -> Any:
        yield None


async def test_answers_are_asked_for_together_and_again_when_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    async def check(rows: Sequence[str], _connection: object) -> Sequence[Answer | Exception]:
        asked.append(list(rows))
        return [Withheld(row) for row in rows]

    claims: Any = _Claims()
    answers: Answers[str] = Answers(check, claims)
    rows = ["a", "b", "c"]
    assert await answers.next(rows) == Withheld("a")
    assert await answers.next(rows[1:]) == Withheld("b")
    monkeypatch.setattr(truth, "VALID_S", -1)
    assert await answers.next(rows[2:]) == Withheld("c")
    assert asked == [["a", "b", "c"], ["c"]]


async def test_a_row_that_breaks_the_common_question_fails_alone() -> None:
    async def check(rows: Sequence[str], _connection: object) -> Sequence[Answer | Exception]:
        if "b" in rows:
            raise StoreRefused("a value")
        return [None for _ in rows]

    claims: Any = _Claims()
    answers: Answers[str] = Answers(check, claims)
    rows = ["a", "b", "c"]
    assert [await answers.next(rows[at:]) for at in range(3)][::2] == [None, None]
    assert isinstance(await Answers(check, claims).next(["b"]), StoreRefused)


async def test_a_store_that_is_away_is_no_rows_fault() -> None:
    async def check(_rows: Sequence[str], _connection: object) -> Sequence[Answer | Exception]:
        raise StoreUnavailable("away")

    claims: Any = _Claims()
    with pytest.raises(StoreUnavailable):
        await Answers(check, claims).next(["a", "b"])


def test_claims_grow_while_rows_leave_quickly() -> None:
    size = ClaimSize(4, 32)
    for expected in (4, 8, 16, 32, 32):
        assert size.size == expected
        size.delivered(size.size, 0.1)
        assert size.is_full
    size.delivered(7, 0.1)
    assert (size.size, size.is_full) == (32, False)
    size.delivered(32, claim_size.QUICK_S)
    assert (size.size, size.is_full) == (4, False)
    size.delivered(4, 0.1)
    size.interrupted()
    assert (size.size, size.is_full) == (4, False)


def test_an_outbox_without_larger_claims_keeps_its_size() -> None:
    size = ClaimSize(1, 1)
    size.delivered(1, 0.1)
    assert (size.size, size.is_full) == (1, True)
