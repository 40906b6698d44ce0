"""The registry of outboxes is complete: what is not declared, or lacks a command or an alarm, fails here by name."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import typer
from sqlalchemy import CheckConstraint

from ops.cli import COMMANDS
from ops.processes import dispatcher
from schemas.effects import Order
from sinks.outbox.claims import Claims, claims_of
from sinks.postgres import tables
from sinks.postgres.outboxes import BY_TABLE, OUTBOXES, Outbox, OutboxRow
from tests.kits.outboxkit import sample_row

ROOT = Path(__file__).parents[4]
EACH = pytest.mark.parametrize("outbox", OUTBOXES, ids=lambda outbox: outbox.name)


def statuses_of(name: str) -> set[str]:
    """The statuses that the table's CHECK constraint allows."""
    table = tables.metadata.tables[f"billing.{name}"]
    checks = [str(check.sqltext) for check in table.constraints if isinstance(check, CheckConstraint)]
    return {status for check in checks if check.startswith("status in") for status in re.findall(r"'(\w+)'", check)}


def test_each_table_that_a_rebuild_can_suppress_is_declared() -> None:
    names = {str(table.name) for table in tables.metadata.tables.values()}
    suppressible = {name for name in names if "suppressed" in statuses_of(name)}
    assert suppressible == BY_TABLE.keys(), "declare in sinks/postgres/outboxes.py"


def test_each_effect_and_each_row_type_of_an_outbox_is_declared() -> None:
    assert {outbox.effect for outbox in OUTBOXES} == set(get_args(Order))
    assert {outbox.row_type for outbox in OUTBOXES} == set(get_args(OutboxRow))


@EACH
def test_the_table_of_an_outbox_has_the_columns_and_statuses_that_are_declared(outbox: Outbox) -> None:
    columns = set(outbox.table.c.keys())
    assert {"queued", outbox.busy, outbox.done, "failed", "suppressed"} <= statuses_of(outbox.name)
    needed = {"event_id", "status", "attempts", "next_attempt_at", "claimed_by", "last_error", outbox.since}
    assert needed | outbox.not_compared | set(outbox.shown) <= columns
    assert outbox.kind is None or outbox.kind in columns
    assert getattr(sample_row(outbox), outbox.key)


def test_no_two_outboxes_share_a_name() -> None:
    for names in zip(*((o.name, o.channel, o.command, o.metrics) for o in OUTBOXES), strict=True):
        assert len(set(names)) == len(OUTBOXES), names


@EACH
def test_an_operator_can_list_and_requeue_the_rows_of_each_outbox(outbox: Outbox) -> None:
    assert outbox.command in COMMANDS, f"`billing {outbox.command}` is missing"
    module, _, name = COMMANDS[outbox.command].place.partition(":")
    group = typer.main.get_command(getattr(import_module(module), name))
    assert {"ls", "requeue"} <= set(getattr(group, "commands", {})), outbox.command


def test_the_dispatcher_delivers_the_rows_of_each_outbox() -> None:
    """It opens the claims of each outbox that it starts."""
    known = (one for one in vars(dispatcher).values() if isinstance(one, type) and issubclass(one, Claims))
    assert {one.queue.outbox for one in known} == set(OUTBOXES), "start its loop in ops/processes/dispatcher.py"


@EACH
def test_the_declared_claims_of_an_outbox_claim_its_rows(outbox: Outbox) -> None:
    """The console requeues with them."""
    assert claims_of(outbox).queue.outbox is outbox


@EACH
def test_each_outbox_has_an_alarm_for_failed_rows_that_is_documented(outbox: Outbox) -> None:
    alerts = (ROOT / "docs" / "alerts.yml").read_text()
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    assert f'{outbox.metrics}_settled_total{{outcome="failed"}}' in alerts, f"no alarm for failed rows of {outbox.name}"
    assert f"{outbox.metrics}_settled_total" in metrics
