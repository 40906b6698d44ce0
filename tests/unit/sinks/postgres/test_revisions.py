"""Revisions after r0008 must not stop a live system: no long lock, no table read under a lock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from sinks.postgres import revisions
from sinks.postgres.migration import alembic_config
from sinks.postgres.migrations import versions
from tests.paths import ROOT

_FOLDER = Path(versions.__file__).parent
_NEW = sorted(path for path in _FOLDER.glob("r*.py") if path.stem[1:5] > "0008")
_CONCURRENT = {"create_index", "drop_index", "replace_check", "set_not_null"}
_FORBIDDEN = {
    "create_check_constraint": "online.replace_check",
    "create_unique_constraint": "online.create_index, then a constraint that uses the index",
    "create_foreign_key": "no foreign keys: they lock both tables",
    "create_primary_key": "online.create_index, then a constraint that uses the index",
    "drop_index": "online.drop_index",
    "rename_table": "a new table: running processes use the old name",
    "drop_table": "a later release: running processes use the table",
    "drop_column": "a later release: running processes use the column",
    "bulk_insert": "sinks/postgres/backfill.py",
    "batch_alter_table": "op.add_column",
}
_REWRITES = {"type_", "nullable", "new_column_name"}
_PRODUCT = ("analytics", "eventlog", "gateway", "local", "ops", "recovery", "scheduler", "schemas", "sinks", "streams")
_DATA = ("UPDATE ", "DELETE ", "INSERT ")


def forbidden(source: str) -> list[str]:
    """Returns what the `upgrade` of a revision does that blocks readers or writers for long."""
    upgrade = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"
    )
    calls = [node for node in ast.walk(upgrade) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    named = [
        (call.func.value.id, call.func.attr, call)
        for call in calls
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
    ]
    created = {_text(call.args[0]) for module, name, call in named if (module, name) == ("op", "create_table")}
    is_concurrent = any(module == "online" and name in _CONCURRENT for module, name, _ in named)
    found = []
    for module, name, call in named:
        if module != "op":
            continue
        if name in _FORBIDDEN:
            found.append(f"op.{name}: use {_FORBIDDEN[name]}")
        if name == "create_index" and _text(call.args[1]) not in created:
            found.append("op.create_index on an existing table blocks its writers: use online.create_index")
        if name == "alter_column" and any(
            word.arg in ("type_", "nullable", "new_column_name") for word in call.keywords
        ):
            found.append("op.alter_column: a type rewrites the table; for NOT NULL use online.set_not_null")
        if name in ("create_table", "add_column") and is_concurrent and not _is_set(call, "if_not_exists"):
            found.append(f"op.{name}: online.… commits before it, so it needs if_not_exists=True")
        if name == "add_column" and "nullable=False" in ast.unparse(call) and "server_default" not in ast.unparse(call):
            found.append("op.add_column: NOT NULL needs a constant server_default")
        if name == "execute" and _text(call.args[0]).lstrip().upper().startswith(_DATA):
            found.append("op.execute changes data in one transaction: use sinks/postgres/backfill.py")
    return found


def _text(node: ast.expr) -> str:
    parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return "".join(part for part in parts if isinstance(part, str))


def _is_set(call: ast.Call, option: str) -> bool:
    return any(
        word.arg == option and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in call.keywords
    )


@pytest.mark.parametrize("path", _NEW, ids=lambda path: path.stem)
def test_a_revision_runs_on_a_live_system(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        'op.create_index("i", "emails", ["queued_at"], schema="billing")',
        'op.create_check_constraint("c", "emails", "true", schema="billing")',
        'op.alter_column("emails", "status", nullable=False, schema="billing")',
        'op.alter_column("emails", "attempts", type_=sa.BigInteger(), schema="billing")',
        'op.execute("UPDATE billing.events SET source = 0")',
        'op.execute(sa.text("  update billing.events SET source = 0"))',
        'op.drop_column("emails", "locale", schema="billing")',
        'op.add_column("emails", sa.Column("x", sa.Text(), nullable=False), schema="billing")',
        'op.add_column("emails", sa.Column("x", sa.Text())); online.create_index("i", "emails", ["x"])',
    ],
)
def test_what_would_block_is_found(line: str) -> None:
    assert forbidden(f"def upgrade():\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        'op.create_table("t", sa.Column("x", sa.Text())); op.create_index("i", "t", ["x"], schema="billing")',
        'op.add_column("emails", sa.Column("x", sa.Text(), nullable=True), schema="billing")',
        'op.add_column("emails", sa.Column("x"), if_not_exists=True); online.create_index("i", "emails", ["x"])',
    ],
)
def test_what_is_short_is_allowed(line: str) -> None:
    assert forbidden(f"def upgrade():\n    {line}\n") == []


def test_revisions_are_numbered_without_gaps() -> None:
    numbers = sorted(path.stem[1:5] for path in _FOLDER.glob("r*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


def test_connections_are_made_in_one_place() -> None:
    """Every connection has time limits and a name, and works through a pooler."""
    makers = ("asyncpg.connect", "asyncpg.create_pool", "create_pool", "create_async_engine", "create_engine")
    found = {
        str(path.relative_to(ROOT))
        for folder in _PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        if any(maker in path.read_text() for maker in makers)  # parsing every file would take seconds
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in makers
    }
    assert found == {"sinks/postgres/pool.py"}


def test_the_names_of_the_files_are_the_chain_of_revisions() -> None:
    """A process compares revisions by these names, without Alembic."""
    chain = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]
    assert revisions.revisions() == tuple(reversed(chain))
    assert revisions.newest_revision() == chain[0]
    assert revisions.is_known("0001")
    assert not revisions.is_known("9999")
