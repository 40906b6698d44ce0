"""Who did what: actions and jobs with their results, the audit log, and the settings in force."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from console import params
from console.access import Action
from console.errors import NotFound, Refused
from console.jobs import ACTION as REPLAY_JOB
from console.pages.checks import appending
from console.reads import panels
from console.web import Answer, Context, Page, Redirect, get, post
from schemas.asked_checks import CHECKS, RECONCILE_DRY
from schemas.settings import Config, Settings
from sinks.postgres.lists import PAGE, Found, overview, row, rows

HIDDEN = "set, hidden"
_USER_OF_URL = re.compile(r"://[^/@\s]+@")
_WANTED = {"run": "continue", "pause": "pause", "stop": "stop"}
"""What a form wants of a job, and what the audit log calls it."""


async def jobs(context: Context) -> Answer:
    """Shows the latest actions."""
    before = params.time(context.query, "before")
    found = await panels({"actions": context.console.actions.records.latest(before=before, most=PAGE)})
    actions = found["actions"]
    listed = [asdict(one) for one in actions] if isinstance(actions, list) else actions
    more = listed[-1]["at"].isoformat() if isinstance(listed, list) and len(listed) == PAGE else None
    return Page("jobs.j2", "Actions and jobs", {"actions": listed, "next": more})


async def job(context: Context) -> Answer:
    """Shows one action: its progress while it runs, and its result."""
    console, key = context.console, context.part("key")
    found = await console.actions.find(key)
    if found is None:
        raise NotFound("There is no such action.")
    outcome = None
    if found.action == REPLAY_JOB:
        outcome = (await panels({"outcome": console.reads.ask(lambda c: _outcome(c, found.who, found.at))}))["outcome"]
    data = {"job": asdict(found), "outcome": outcome, "is_check": found.action in CHECKS}
    if found.action == RECONCILE_DRY and found.status == "done":
        data["appending"] = appending(found, console.clock())
    return Page("job.j2", found.action.capitalize(), data)


async def control(context: Context) -> Answer:
    """Pauses, continues or stops a job."""
    key, wanted = context.part("key"), str((await context.form()).get("wanted", ""))
    if wanted not in _WANTED:
        raise Refused("wanted is run, pause or stop")
    entry = context.entry(f"job.{_WANTED[wanted]}", target=key)
    if not await context.console.actions.records.want(key, wanted, entry):
        raise Refused("This is not a job, or it has ended.")
    await context.console.jobs.resume()
    return Redirect(f"/jobs/{key}")


async def audit(context: Context) -> Answer:
    """Shows the audit log."""
    query = context.query
    before = params.whole(query, "before", default=0, least=0, most=2**62)
    filters = {name: params.text(query, name) for name in ("who", "action", "target")}
    found = await panels({"entries": context.console.reads.ask(lambda c: _audit(c, filters, before))})
    entries = found["entries"]
    more = entries[-1]["entry_id"] if isinstance(entries, list) and len(entries) == PAGE else None
    return Page("audit.j2", "Audit log", {"entries": entries, "next": more})


async def settings(context: Context) -> Answer:
    """Shows the settings in force. Secrets show only whether they are set."""
    console = context.console
    found = await panels({"unknown_prices": console.reads.ask(overview.unknown_prices)})
    data = {
        "settings": settings_shown(console.settings),
        "plans": plans_shown(console.config),
        "endpoints": [
            {"name": name, "connect": one.connect, "secrets": len(one.secrets), "allow_ips": ", ".join(one.allow_ips)}
            for name, one in console.config.endpoints.items()
        ],
        "rules": console.config.rules.model_dump(mode="json"),
        "access": console.config.access.model_dump(mode="json"),
        "people": people_shown(console.config),
        **found,
    }
    return Page("settings.j2", "Settings in force", data)


def settings_shown(given: Settings) -> list[dict[str, str]]:
    """Returns each setting of the environment: `name`, `value`, and whether it is the default. Secrets are hidden."""
    shown = []
    for name, field in type(given).model_fields.items():
        value: Any = getattr(given, name)
        if isinstance(value, SecretStr):
            text = HIDDEN
        elif value is None or value == "":
            text = ""
        elif name == "kafka_config":  # may contain any property of librdkafka, passwords too
            text = ", ".join(pair.partition("=")[0] for pair in str(value).split(","))
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = _USER_OF_URL.sub("://\N{HORIZONTAL ELLIPSIS}@", str(getattr(value, "value", value)))
        is_default = not field.is_required() and value == field.default
        shown.append({"name": f"BILLING_{name.upper()}", "value": text, "from": "default" if is_default else "set"})
    return shown


def plans_shown(config: Config) -> list[dict[str, Any]]:
    """Returns the plans with their prices and limits."""
    return [
        {"id": plan_id, "name": plan.name, "prices": list(plan.prices), "limits": plan.limits}
        for plan_id, plan in config.plans.items()
    ]


def people_shown(config: Config) -> list[dict[str, str]]:
    """Returns who may sign in, by password, by proxy and by the OpenID provider: `who`, `by`, `role`."""
    console = config.console
    found = [{"who": name, "by": "password", "role": user.role.label} for name, user in console.users.items()]
    for by, given in (
        ("proxy", console.proxy),
        (f"OpenID: {console.oidc.issuer}" if console.oidc else "", console.oidc),
    ):
        if given is not None:
            found += [{"who": name, "by": by, "role": role.label} for name, role in given.users.items()]
            found += [{"who": f"group {name}", "by": by, "role": role.label} for name, role in given.groups.items()]
    return found


async def _audit(connection: AsyncConnection, filters: dict[str, str], before: int) -> list[Found]:
    parts, values = ["true"], dict[str, object](most=PAGE)
    if before:
        parts.append("entry_id < :before")
        values["before"] = before
    for name, value in filters.items():
        if value:
            parts.append(f"{name} = :{name}")
            values[name] = value
    return await rows(
        connection,
        f"""SELECT entry_id, at, who, role, action, target, filter, count, outcome, reason, peer
        FROM billing.audit_log WHERE {" AND ".join(parts)} ORDER BY entry_id DESC LIMIT :most""",  # noqa: S608
        values,
    )


async def _outcome(connection: AsyncConnection, who: str, since: Any) -> Found | None:
    """Returns how the letters that were replayed since then have ended: resolved, dead again, not decided yet."""
    return await row(
        connection,
        """SELECT count(*) FILTER (WHERE l.status = 'resolved') AS resolved,
               count(*) FILTER (WHERE again.event_id IS NOT NULL) AS dead_again,
               count(*) FILTER (WHERE l.status = 'replayed' AND again.event_id IS NULL) AS pending
        FROM billing.dead_letters l
        LEFT JOIN LATERAL (SELECT a.event_id FROM billing.dead_letters a
            WHERE a.event_id = l.event_id AND a.status = 'open' LIMIT 1) again ON true
        WHERE l.replay_begun_at >= :since AND (l.closed_by = :who OR l.closed_by IS NULL)
          AND l.status IN ('replayed', 'resolved')""",
        {"since": since, "who": who},
    )


ROUTES = [
    get("/jobs", jobs),
    get("/jobs/{key}", job),
    post("/jobs/{key}", control, Action.REPLAY),
    get("/audit", audit, Action.SEE_AUDIT),
    get("/settings", settings, Action.SEE_SETTINGS),
]
