"""The plain pages behind the links in mails: not cached, no referrer, no script."""

from __future__ import annotations

import html
from collections.abc import Mapping

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

INCOMPLETE = "This link is not complete. Please copy all of it from the mail."

HEADERS = {
    "Server": "billing",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
}


def only(request: web.Request, name: str) -> str:
    """Returns a query parameter that occurs exactly once, otherwise an empty string."""
    values = request.query.getall(name, [])
    return values[0] if len(values) == 1 else ""


def answer(what: str, outcome: str, status: int, text: str, retry_after_s: int | None = None) -> web.Response:
    """Returns a page with one sentence, and logs the outcome."""
    log.info("link.answered", action="link.answered", what=what, outcome=outcome, status=status)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
    return page(status, text, headers=headers)


def page(status: int, text: str, form: str = "", *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a page with one sentence and a form, which is HTML."""
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Billing</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:32rem;margin:4rem auto;padding:0 1rem}</style></head>"
        f"<body><p>{html.escape(text)}</p>{form}</body></html>"
    )
    return web.Response(
        status=status, text=body, content_type="text/html", charset="utf-8", headers=HEADERS | dict(headers or {})
    )
