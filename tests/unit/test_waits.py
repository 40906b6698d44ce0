"""Tests wait long enough for a slow machine, and no assertion says how fast this one is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

SHORTEST_S = 30.0
"""A machine that runs other tests stalls for seconds, and a wait that ends by its condition costs nothing."""
LONGEST_LOOK_S = 1.0
"""Up to here the end of the wait is what is expected, or a look that is repeated."""

_CLOCKS = ("monotonic", "perf_counter", "time")
_WAITS = ("within_s", "timeout")
_CALLS = {"timeout": 0, "wait_for": 1, "wait": 0, "join": 0, "flush": 0, "result": 0}
"""Functions of asyncio, threads, processes and Kafka clients, and the place of their seconds."""

_ALLOWED = {
    "chaos/faults.py": "a database without free connections refuses at once",
    "chaos/test_broken_deploy.py": "one of many looks at a worker that may hang",
    "e2e/test_gateway_edge.py": "a sender that the gateway does not read must not hold up the test",
    "kits/readerkit.py": "one of many looks at a process that starts",
    "stack.py": "whether docker answers at all",
}
"""Files below tests/ with other seconds on purpose."""


def _seconds(node: ast.expr) -> float | None:
    return float(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def _waits(tree: ast.AST) -> Iterator[tuple[int, float]]:
    """The lines and seconds of waits that a slow machine may not keep."""
    for node in ast.walk(tree):
        found: list[ast.expr] = []
        if isinstance(node, ast.Call):
            found = [keyword.value for keyword in node.keywords if keyword.arg in _WAITS]
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if name in _CALLS and len(node.args) > _CALLS[name]:
                found.append(node.args[_CALLS[name]])
        elif isinstance(node, ast.arguments):
            places = [*node.posonlyargs, *node.args]
            defaults = [*zip(places[::-1], node.defaults[::-1], strict=False)]
            defaults += [(name, value) for name, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
            found = [value for name, value in defaults if name.arg in _WAITS]
        for value in found:
            seconds = _seconds(value)
            if seconds is not None and LONGEST_LOOK_S < seconds < SHORTEST_S:
                yield value.lineno, seconds


def _is_difference(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.BinOp)
        and isinstance(part.op, ast.Sub)
        and any(isinstance(term, ast.Attribute) and term.attr in _CLOCKS for term in ast.walk(part))
        for part in ast.walk(node)
    )


def _asserted_speeds(tree: ast.AST) -> Iterator[int]:
    """The lines of assertions that a difference of two clock readings is small."""
    compared = (
        part for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node.test)
        if isinstance(part, ast.Compare)
    )  # fmt: skip
    for node in compared:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            lower = left if isinstance(operator, ast.Lt | ast.LtE) else right
            if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) and _is_difference(lower):
                yield node.lineno


def _files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def test_waits_have_time() -> None:
    short = [
        f"{name}:{line}: {seconds:g} s"
        for file in _files()
        if (name := file.relative_to(ROOT / "tests").as_posix()) not in _ALLOWED
        for line, seconds in _waits(ast.parse(file.read_text()))
    ]
    assert short == [], f"waits of {SHORTEST_S:g} s or more, or of at most {LONGEST_LOOK_S:g} s"


def test_each_exception_has_such_a_wait() -> None:
    unused = [name for name in _ALLOWED if not list(_waits(ast.parse((ROOT / "tests" / name).read_text())))]
    assert unused == []


def test_no_assertion_depends_on_the_speed_of_the_machine() -> None:
    found = [f"{file}:{line}" for file in _files() for line in _asserted_speeds(ast.parse(file.read_text()))]
    assert found == [], "wait for a condition with a deadline, or compare with what must be slower"


@pytest.mark.parametrize(
    ("line", "waits", "speeds"),
    [
        ("await asyncio.wait_for(done, 5)", 1, 0),
        ("async with asyncio.timeout(29.5): pass", 1, 0),
        ("eventually(done, within_s=10)", 1, 0),
        ("eventually(done, within_s=30)", 0, 0),
        ("connect(timeout=0.2)", 0, 0),
        ("producer.flush(10)", 1, 0),
        ("def read(url, timeout=10.0, *, within_s: float = 5): pass", 2, 0),
        ("assert time.monotonic() - began < 5", 0, 1),
        ("assert 1 <= time.perf_counter() - began < 5", 0, 1),
        ("assert 5 > time.time() - began", 0, 1),
        ("assert time.monotonic() - began >= 0.5", 0, 0),
        ("assert time.monotonic() < deadline", 0, 0),
    ],
)
def test_both_kinds_are_found(line: str, waits: int, speeds: int) -> None:
    tree = ast.parse(f"async def test():\n    {line}")
    assert (len(list(_waits(tree))), len(list(_asserted_speeds(tree)))) == (waits, speeds)
