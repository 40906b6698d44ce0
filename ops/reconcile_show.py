"""What a reconciliation found, on a terminal or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recovery.reconcile.objects import DriftReport
from recovery.reconcile.report import Report

_PIPE_WIDTH = 200
_SHOWN = 20


def show_reports(reports: list[Report], *, as_json: bool, is_dry: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps([report.plain() for report in reports]))
        return
    console = _console()
    for report in reports:
        resumed = f", taken up at {_at(report.resumed_at)}" if report.resumed_at else ""
        done = "nothing sent" if is_dry else f"{report.fed} put onto the log"
        _say(
            console,
            f"{_of(report.account)}, {_at(report.window_from)} to {_at(report.window_until)}{resumed}: "
            f"{report.listed} listed, {report.on_the_way} on the way, {report.missing} missing, {done}",
        )
        if report.too_large:
            _say(console, f"{report.too_large} of them too large for the log")
        if report.trouble:
            _say(console, f"stopped: {report.trouble}")
        if report.missing:
            console.print(_counts("by type", dict(report.by_type.most_common())))
            console.print(_counts("by age", report.by_age))


def show_drifts(reports: list[DriftReport], *, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps([_plain(report) for report in reports]))
        return
    console = _console()
    for report in reports:
        compared = ", ".join(f"{count} {kind}s" for kind, count in report.compared.items()) or "nothing"
        _say(
            console, f"{_of(report.account)}: {compared} compared, {len(report.drifts)} differ, {report.queued} queued"
        )
        if report.is_cut:
            _say(console, "there may be more: run it again once these are repaired")
        if report.unreadable:
            _say(console, f"{report.unreadable} could not be read")
        if report.trouble:
            _say(console, f"stopped: {report.trouble}")
        if report.drifts:
            console.print(_counts("by field", report.by_field))
            console.print(_drift_table(report))


def _plain(report: DriftReport) -> dict[str, object]:
    return {
        "account": report.account,
        "compared": dict(report.compared),
        "unreadable": report.unreadable,
        "queued": report.queued,
        "is_cut": report.is_cut,
        "trouble": report.trouble,
        "by_field": report.by_field,
        "drifts": [
            {
                "kind": drift.kind,
                "id": drift.id,
                "missing": drift.missing,
                "repairable": drift.repairable,
                "fields": {name: {"stripe": one, "table": other} for name, (one, other) in drift.fields.items()},
            }
            for drift in report.drifts
        ],
    }


def _drift_table(report: DriftReport) -> Table:
    table = Table("object", "field", "Stripe", "table", title=f"first {_SHOWN}", title_justify="left")
    for drift in report.drifts[:_SHOWN]:
        for name, (one, other) in drift.fields.items():
            table.add_row(drift.id, name, _printable(one), "no row" if drift.missing else _printable(other))
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, count in counts.items():
        table.add_row(_printable(name), str(count))
    return table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _say(console: Console, line: str) -> None:
    console.print(_printable(line), soft_wrap=True)


def _printable(value: object) -> Text:
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value)))


def _of(account: str) -> str:
    return account or "own account"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
