"""Dunning and revenue. Every figure leads to its customers and events; currencies are never added up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from console import params
from console.access import Action
from console.errors import Refused
from console.reads import panels
from console.web import Answer, Context, Page, get
from schemas.csv_text import csv_text
from schemas.settings import DunningStep
from sinks.postgres.lists import Found, money

NOT_IN_A_STEP = "failed"
_SINCE_DAYS, _REASONS_DAYS = 30, 90


def board(
    cards: Sequence[Found], steps: Sequence[DunningStep], ended: Sequence[Found] | None, now: datetime
) -> list[dict[str, Any]]:
    """Returns the columns of the dunning board: each step with the invoices whose latest step it is, then the ends.

    Without `ended`, which is None if it is not known, there are no columns of ends. A step after some days is stored
    with the time at which it will be reached, so steps in the future do not count.
    """
    columns: list[dict[str, Any]] = [{"step": NOT_IN_A_STEP, "cards": []}]
    columns += [{"step": step.template, "cards": []} for step in steps]
    by_step = {column["step"]: column for column in columns}
    for card in cards:
        steps_at = {step: datetime.fromisoformat(at) for step, at in card["dunning_steps"].items()}
        reached = sorted((at, step) for step, at in steps_at.items() if at <= now)
        last = reached[-1][1] if reached else NOT_IN_A_STEP
        by_step.get(last, columns[0])["cards"].append(card)
    if ended is None:
        return columns
    for outcome in ("recovered", "lost"):
        columns.append({"step": outcome, "cards": [one for one in ended if one["outcome"] == outcome]})
    return columns


def totals(cards: Sequence[Found]) -> list[tuple[str, int]]:
    """Returns the amounts of cards by currency, the largest first."""
    found: dict[str, int] = {}
    for card in cards:
        found[card["currency"]] = found.get(card["currency"], 0) + card["amount"]
    return sorted(found.items(), key=lambda item: -item[1])


async def dunning(context: Context) -> Answer:
    """Shows failed invoices by step, and how well the steps work."""
    ask, kept, now = context.console.reads.ask, context.console.reads.kept, context.console.clock()
    found = await panels(
        {
            "failed": ask(money.failed_invoices),
            "ended": kept("ended invoices", lambda c: money.ended_invoices(c, now - timedelta(days=_SINCE_DAYS))),
            "steps": kept("recovery by step", money.recovery_by_step),
            "months": kept("recovery by month", money.recovery_by_month),
            "reasons": ask(money.decline_reasons),
            "by_reason": kept(
                "recovery by reason", lambda c: money.recovery_by_reason(c, now - timedelta(days=_REASONS_DAYS))
            ),
            "expiring": ask(lambda c: money.expiring_cards(c, now)),
        }
    )
    failed, ended = found["failed"], found["ended"] if isinstance(found["ended"], list) else None
    steps = context.console.config.rules.dunning
    columns = board(failed, steps, ended, now) if isinstance(failed, list) else failed
    if isinstance(columns, list):
        columns = [column | {"totals": totals(column["cards"])} for column in columns]
    limits = {"most": money.MOST_CARDS, "days": _SINCE_DAYS, "reasons_days": _REASONS_DAYS}
    return Page("dunning.j2", "Dunning", {**found, "board": columns, **limits})


async def revenue(context: Context) -> Answer:
    """Shows MRR and its movements by month."""
    kept, query = context.console.reads.kept, context.query
    months = params.whole(query, "months", default=12, least=1, most=60)
    found = await panels(
        {
            "movements": kept(f"movements of {months} months", lambda c: money.movements_by_month(c, months=months)),
            "risks": kept("customers at risk", money.customers_at_risk),
        }
    )
    movements = found["movements"]
    if params.text(query, "format") == "csv" and isinstance(movements, list):
        return _csv("movements.csv", movements)
    series = by_currency(movements) if isinstance(movements, list) else movements
    this_month = f"{context.console.clock():%Y-%m}"
    return Page("revenue.j2", "Revenue", {**found, "series": series, "this_month": this_month, "months": months})


async def movements(context: Context) -> Answer:
    """Shows the movements behind one figure, each with its customer and events."""
    query = context.query
    month = params.text(query, "month")
    if len(month) != 7 or month[4] != "-" or not (month[:4] + month[5:]).isdecimal() or not 1 <= int(month[5:]) <= 12:
        raise Refused("month is a month such as 2026-11")
    kind, currency, plan = (params.text(query, name) for name in ("kind", "currency", "plan"))
    found = await panels(
        {
            "movements": context.console.reads.ask(
                lambda c: money.movements(c, month=month, kind=kind, currency=currency, plan=plan)
            )
        }
    )
    listed = found["movements"]
    if params.text(query, "format") == "csv" and isinstance(listed, list):
        return _csv(f"movements-{month}.csv", listed)
    return Page("movements.j2", f"Movements of {month}", {**found, "month": month, "kind": kind, "currency": currency})


def by_currency(movements: Sequence[Found]) -> list[dict[str, Any]]:
    """Returns one series per mode and currency, each month with its quick ratio and its churn in percent of MRR."""
    series: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for month in movements:
        series.setdefault((month["livemode"], month["currency"]), []).append(dict(month))
    for months in series.values():
        for month in months:
            before = month["mrr"] - month["net"]
            month["quick_ratio"] = money.quick_ratio(month)
            month["churn_rate"] = (
                round(-(month["churn"] + month["paused_churn"]) / before * 100, 1) if before > 0 else None
            )
    return [{"livemode": key[0], "currency": key[1], "months": months} for key, months in series.items()]


def _csv(name: str, found: Sequence[Found]) -> web.Response:
    """Returns rows as CSV. A text that a spreadsheet would read as a formula is quoted."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(text=csv_text(found), content_type="text/csv", headers=headers)


ROUTES = [
    get("/dunning", dunning, Action.SEE_MONEY),
    get("/revenue", revenue, Action.SEE_MONEY),
    get("/revenue/movements", movements, Action.SEE_MONEY),
]
