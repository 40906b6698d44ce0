"""Renders pages: HTML from the templates, or JSON from the same data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from console import charts, formats
from console.access import Action
from console.masking import masked
from console.reads import PanelFailure
from console.web import Console, Context, Page
from sinks.postgres.outboxes import ERASED

_FOLDER = Path(__file__).parent / "templates"

NAVIGATION = (
    ("Watch", (("/", "Overview", "o"), ("/events", "Events", "e"), ("/lag", "Lag and brake", "l"))),
    ("Repair", (("/dead", "Dead letters", "d"), ("/outboxes", "Outboxes", "u"), ("/mails", "Mails", "m"),
                ("/timers", "Timers", "t"), ("/jobs", "Actions and jobs", "j"))),
    ("Money", (("/dunning", "Dunning", "n"), ("/revenue", "Revenue", "v"))),
    ("Proof", (("/checks", "Reconcile and audit", "c"), ("/audit", "Audit log", "a"), ("/settings", "Settings", "s"))),
)  # fmt: skip
"""Groups of pages: path, title, and the key that opens it after `g`."""

_NEEDS = {
    "/dunning": Action.SEE_MONEY,
    "/revenue": Action.SEE_MONEY,
    "/audit": Action.SEE_AUDIT,
    "/settings": Action.SEE_SETTINGS,
}

RUNBOOK = "https://github.com/billing-stream/billing-stream/blob/main/docs/runbook.md"


class _Query(dict[str, str]):
    """The parameters of the URL in a template; a missing one is ''."""

    def __missing__(self, name: str) -> str:
        return ""


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        money=formats.money,
        figure=formats.figure,
        duration=formats.duration,
        badge=formats.badge,
        id=formats.link,
        pretty=formats.pretty_json,
        folded=formats.folded,
        breaks=formats.breaks,
        value=formats.value,
    )
    environment.tests["failed"] = lambda value: isinstance(value, PanelFailure)
    environment.globals.update(charts=charts, stripe_url=formats.stripe_url, url_of=formats.url_of, utc=formats.utc)
    environment.globals["erased"] = ERASED
    return environment


ENVIRONMENT = _environment()


def shown(context: Context, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data as this person may see it now."""
    if context.may(Action.REVEAL) and context.is_revealed:
        return dict(data)
    found: dict[str, Any] = masked(data)
    return found


def answer(context: Context, page: Page) -> web.Response:
    """Returns the page in the form that the request accepts."""
    data = shown(context, page.data)
    if context.wants_json:
        return web.Response(status=page.status, body=formats.as_json(data), content_type="application/json")
    now = context.console.clock()
    values = {
        **data,
        **_frame(context.console),
        "title": page.title,
        "person": context.person,
        "path": context.request.path,
        "here": context.request.rel_url.raw_path_qs,
        "query": _Query(context.query),
        "navigation": [
            (group, [entry for entry in entries if context.may(_NEEDS.get(entry[0], Action.SEE))])
            for group, entries in NAVIGATION
        ],
        "may": {action.name.lower(): context.may(action) for action in Action},
        "is_revealed": context.may(Action.REVEAL) and context.is_revealed,
        "is_live": page.live,
        "with_query": lambda **changes: with_query(context.query, changes),
        "when": lambda at: formats.when(at, now),
        "now": now,
    }
    body = ENVIRONMENT.get_template(page.template).render(values)
    return web.Response(status=page.status, text=body, content_type="text/html")


def bare(console: Console, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Returns a page without navigation, for a person who is not signed in."""
    body = ENVIRONMENT.get_template(template).render({**_frame(console), **values})
    return web.Response(status=status, text=body, content_type="text/html")


def with_query(query: Mapping[str, str], changes: Mapping[str, object]) -> str:
    """Returns `?…` with changed parameters; None removes one."""
    merged = {**query, **{name: str(value) if value is not None else "" for name, value in changes.items()}}
    return "?" + urlencode({name: value for name, value in merged.items() if value})


def _frame(console: Console) -> dict[str, Any]:
    return {
        "asset": console.assets.url,
        "mode": console.config.mode.value,
        "read_only": console.is_read_only,
        "product": console.config.mail.product,
        "runbook": RUNBOOK,
    }
