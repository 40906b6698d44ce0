"""Lag by partition, its history, and the brake with its release."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from console import params
from console.access import Action
from console.errors import NotFound
from console.reads import panels
from console.web import Answer, Context, Page, Redirect, get, post
from sinks.postgres.brakes import Brakes
from sinks.postgres.lists import overview

_MOST_LET_DIE = 100_000


async def page(context: Context) -> Answer:
    """Shows how far the worker is behind, and every brake."""
    console = context.console
    found = await panels({"partitions": console.lag.data(), "brakes": console.reads.ask(overview.brakes)})
    partitions = found["partitions"]
    records = sum(one["records"] for one in partitions) if isinstance(partitions, list) else None
    data = {
        **found,
        "group": console.lag.group,
        "records": records,
        "per_second": console.lag.per_second(),
        "eta_s": console.lag.eta_s(records) if records else None,
        "history": console.lag.history(),
    }
    return Page("lag.j2", "Lag and brake", data)


async def release_form(context: Context) -> Answer:
    """Shows what a release does."""
    group = params.text(context.query, "group")
    brakes = await context.console.reads.ask(overview.brakes)
    brake = next((one for one in brakes if one["consumer_group"] == group and one["holds"]), None)
    if brake is None:
        raise NotFound(f"The brake does not hold {group}.")
    window = context.console.settings.brake_window
    return Page(
        "brake_form.j2", "Release the brake", {"brake": brake, "let_die": window, "key": secrets.token_urlsafe(16)}
    )


async def release(context: Context) -> Answer:
    """Releases a consumer group."""
    form = {name: str(value) for name, value in (await context.form()).items()}
    console, person = context.console, context.person
    group = params.text(form, "group")
    let_die = params.whole(form, "let_die", default=console.settings.brake_window, least=0, most=_MOST_LET_DIE)

    async def work() -> Mapping[str, Any]:
        brakes = Brakes(console.settings.database_url, application="billing-console")
        entry = context.entry("brake.release", target=group, filter={"let_die": let_die}, reason=form.get("reason"))
        is_released = await brakes.release(group, person.who, let_die=let_die, entry=entry)
        return {"changed": int(is_released), "released": is_released, "let_die": let_die}

    path = await console.actions.perform(
        params.text(form, "key"), person, "release the brake", work, target=group, filter={"let_die": let_die},
        reason=form.get("reason") or None, peer=context.peer,
    )  # fmt: skip
    return Redirect(path)


ROUTES = [
    get("/lag", page),
    get("/brake/release", release_form, Action.RELEASE_BRAKE),
    post("/brake/release", release, Action.RELEASE_BRAKE),
]
