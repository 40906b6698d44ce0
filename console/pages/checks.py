"""Proof that nothing is missing: runs of reconcile and audit, with what they found, and forms that ask for a run."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from console import params
from console.access import Action
from console.errors import NotFound, Refused
from console.reads import panels
from console.web import Answer, Context, Page, Redirect, get, post
from schemas.asked_checks import AUDIT, CHECKS, DAYS, MOST_DAYS, RECONCILE, RECONCILE_DRY, AskedCheck
from sinks.postgres.console_actions import OpenJob, Performed
from sinks.postgres.lists import Found, checks, overview

_OF_ALL_TYPES = ("", "since")
TITLES = {RECONCILE: "Reconcile now", AUDIT: "Audit now"}


async def page(context: Context) -> Answer:
    """Shows the runs, and the differences of one audit."""
    ask = context.console.reads.ask
    run = params.whole(context.query, "run", default=0, least=1, most=2**62)
    found = await panels(
        {
            "reconciliations": ask(checks.reconciliations),
            "audits": ask(checks.audits),
            "compared": ask(overview.compared),
            "differences": ask(lambda c: checks.differences(c, run or None)),
        }
    )
    runs = found["reconciliations"]
    gaps = gaps_of(runs) if isinstance(runs, list) else []
    data = {**found, "gaps": gaps, "run": run or None, "most": checks.MOST_DIFFERENCES}
    return Page("checks.j2", "Reconcile and audit", data)


def gaps_of(runs: Sequence[Found]) -> list[dict[str, Any]]:
    """Returns the times between these reconciliations that none has covered: `account`, `start`, `end`, oldest first.

    A run covers the time up to its cursor. Runs of some types of events only do not count.
    """
    gaps: list[dict[str, Any]] = []
    reached: dict[str, datetime] = {}
    for run in sorted(runs, key=lambda one: one["window_from"]):
        if run["scope"] not in _OF_ALL_TYPES:
            continue
        account, start, end = run["account"], run["window_from"], run["cursor"]
        before = reached.get(account, start)
        if start > before:
            gaps.append({"account": account, "start": before, "end": start})
        reached[account] = max(before, end)
    return gaps


async def form(context: Context) -> Answer:
    """Shows what a reconciliation or an audit would read and do, and how the last one ended."""
    kind = context.part("kind")
    if kind not in TITLES:
        raise NotFound("This is neither reconcile nor audit.")
    last = await context.console.reads.ask(lambda c: checks.last_complete(c, kind))
    query = context.query
    days = params.whole(query, "days", default=0, least=1, most=MOST_DAYS[kind])
    data = {
        "kind": kind,
        "last": last,
        "days": days or (DAYS[AUDIT] if kind == AUDIT else ""),
        "default_days": DAYS[kind],
        "most_days": MOST_DAYS[kind],
        "appends": params.text(query, "what") == "append",
        "is_everywhere": params.text(query, "accounts") == "all",
        "has_connect": any(one.connect for one in context.console.config.endpoints.values()),
        "key": secrets.token_urlsafe(16),
    }
    return Page("check_form.j2", TITLES[kind], data)


async def start(context: Context) -> Answer:
    """Asks the scheduler for a run."""
    form = {name: str(value) for name, value in (await context.form()).items()}
    kind, what = context.part("kind"), params.text(form, "what")
    action = RECONCILE_DRY if kind == RECONCILE and what == "look" else kind
    if kind not in TITLES or action not in CHECKS or (kind == RECONCILE and what not in ("look", "append")):
        raise Refused("The form is incomplete: open it again.")
    days = params.whole(form, "days", default=0, least=1, most=MOST_DAYS[kind])
    if not days and kind == AUDIT:
        raise Refused(f"days is a number from 1 to {MOST_DAYS[kind]}")
    asked = AskedCheck(days or None, all_accounts=params.text(form, "accounts") == "all")
    entry = context.entry(action, filter=asked.as_filter(), reason=params.text(form, "reason"))
    try:
        return Redirect(await context.console.actions.ask(form.get("key", ""), replace(entry, target=kind)))
    except OpenJob as error:
        return Page("problem.j2", "Not done", {"error": str(error), "link": f"/jobs/{error.key}"}, 409)


def appending(job: Performed, now: datetime) -> str:
    """Returns the form that appends what this look has found missing: over its days and accounts."""
    asked = AskedCheck.of_filter(job.filter)
    days = asked.days_again(job.at, now)
    chosen: Mapping[str, object] = {
        "what": "append",
        **({"days": min(days, MOST_DAYS[RECONCILE])} if days is not None else {}),
        **({"accounts": "all"} if asked.all_accounts else {}),
    }
    return f"/checks/{RECONCILE}?{urlencode(chosen)}"


ROUTES = [
    get("/checks", page),
    get("/checks/{kind}", form, Action.CHECK),
    post("/checks/{kind}", start, Action.CHECK),
]
