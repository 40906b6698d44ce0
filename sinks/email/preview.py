"""Previews of all mails: as files, or as a page on this machine that reads the wordings again for each request."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from schemas.database_url import is_local
from schemas.errors import BillingError
from schemas.mail import MAILS
from schemas.settings import Mail as MailConfig
from sinks.email.message import ComposedMail, Composer, QueuedMail
from sinks.email.samples import SAMPLES

_LINKS = {"update_url": "update_payment_url", "survey_url": "survey_url", "return_url": "return_url"}

_SECURITY = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src http: https: data:; frame-src 'self'; "
        "frame-ancestors 'self'"
    ),
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:0;display:grid;grid-template-columns:17rem 1fr;height:100vh;"
    "color:#1f2937}nav{overflow:auto;padding:1rem;border-right:1px solid #e5e7eb;background:#f9fafb}"
    "main{display:grid;grid-template-rows:auto 1fr;min-width:0}"
    "header{padding:.8rem 1rem;border-bottom:1px solid #e5e7eb}"
    "a{color:#1d4ed8;text-decoration:none;margin-right:.6rem}nav a{display:block;padding:.15rem .3rem}"
    "[aria-current]{background:#dbeafe;border-radius:4px}iframe{width:100%;height:100%;border:0}"
    ".views{display:grid;grid-template-columns:3fr 2fr;min-height:0}pre{margin:0;padding:1rem;overflow:auto;"
    "white-space:pre-wrap;border-left:1px solid #e5e7eb}.fault{color:#b91c1c;padding:1rem}"
)


class CannotServe(BillingError):
    """The address of the preview is taken."""


def sample_config() -> MailConfig:
    """Returns a config for previews without a config file."""
    return MailConfig(sender="Acme Billing <billing@example.com>", product="Acme", app_url="https://app.example.com")


def sample_mail(template: str, locale: str, config: MailConfig, composer: Composer) -> ComposedMail:
    """Returns the mail with sample data and the config's links. Raises UnsendableMail."""
    data = {
        name: getattr(config, _LINKS[name]) if name in _LINKS else value for name, value in SAMPLES[template].items()
    }
    if "export_url" in data:
        data = {**data, "export_url": None, "export_id": "exp_preview"}
    now = datetime.now(UTC)
    mail = QueuedMail(
        key=f"preview/{template}/{locale}",
        event_id="evt_preview",
        account="",
        customer_id="cus_preview",
        template=template,
        recipient="jane.doe@example.com",
        locale=locale,
        livemode=False,
        data=data,
        attempts=1,
        now=now,
    )
    return composer.compose(mail, now)


def write_previews(out: Path, locales: Sequence[str], config: MailConfig) -> int:
    """Write `{template}.{locale}.html|txt|eml` for each mail and locale; return the number of files.

    Raises UnusableAddress if an address in `config` is invalid, and UnsendableMail.
    """
    composer = Composer(config, link_secret=b"preview")
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for template in SAMPLES:
        for locale in locales:
            composed = sample_mail(template, locale, config, composer)
            for subtype, suffix in (("html", "html"), ("plain", "txt")):
                (out / f"{template}.{locale}.{suffix}").write_text(_body(composed.message, subtype), "utf-8")
            (out / f"{template}.{locale}.eml").write_bytes(composed.content)
            count += 3
    return count


def _body(message: EmailMessage, subtype: str) -> str:
    body = message.get_body((subtype,))
    if body is None:
        raise RuntimeError(f"a mail without a {subtype} part")
    return str(body.get_content())


class PreviewPages:
    """The pages. `read_config` is called for each request, so that a change of the config is seen at once."""

    def __init__(self, read_config: Callable[[], MailConfig]) -> None:
        self._read_config = read_config

    def app(self) -> web.Application:
        """Returns the application: `/` and `/{template}/{locale}` with the mail in a frame."""
        app = web.Application(middlewares=[_only_by_local_names])
        app.add_routes(
            [
                web.get("/", self._first),
                web.get("/{template}/{locale}", self._mail),
                web.get("/{template}/{locale}/html", self._html),
            ]
        )
        return app

    async def _first(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        raise web.HTTPFound(f"/{min(MAILS)}/en")

    async def _html(self, request: web.Request) -> web.Response:
        try:
            composed = self._compose(request)
        except BillingError as error:
            return _page(500, f'<p class="fault">{html.escape(str(error))}</p>')
        return _page(200, _body(composed.message, "html"))

    async def _mail(self, request: web.Request) -> web.Response:
        template, locale = request.match_info["template"], request.match_info["locale"]
        try:
            languages = sorted(self._read_config().languages)
            composed = self._compose(request)
            message = composed.message
            subject, sender, to = (html.escape(str(message[name])) for name in ("Subject", "From", "To"))
            head = f"<strong>{subject}</strong><br>{sender} → {to}"
            views = (
                f'<iframe src="/{template}/{locale}/html" title="HTML" sandbox></iframe>'
                f"<pre>{html.escape(_body(message, 'plain'))}</pre>"
            )
            status = 200
        except BillingError as error:
            languages, head, status = ["en"], "This mail cannot be made", 500
            views = f'<p class="fault">{html.escape(str(error))}</p>'
        names = "".join(_link(f"/{name}/{locale}", name, name == template) for name in sorted(MAILS))
        others = "".join(_link(f"/{template}/{name}", name, name == locale) for name in languages)
        return _page(
            status,
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{template}</title>'
            f"<style>{_STYLE}</style></head><body><nav>{names}</nav><main><header>{others}<br>{head}</header>"
            f'<div class="views">{views}</div></main></body></html>',
        )

    def _compose(self, request: web.Request) -> ComposedMail:
        template, locale = request.match_info["template"], request.match_info["locale"]
        if template not in MAILS or not locale.replace("-", "").isalnum():
            raise web.HTTPNotFound
        config = self._read_config()
        return sample_mail(template, locale, config, Composer(config, link_secret=b"preview"))


def _link(url: str, name: str, is_current: bool) -> str:
    return f'<a href="{url}"{" aria-current=page" if is_current else ""}>{html.escape(name)}</a>'


def _page(status: int, body: str) -> web.Response:
    return web.Response(status=status, text=body, content_type="text/html", headers=_SECURITY)


@web.middleware
async def _only_by_local_names(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuses a page elsewhere that gives this machine's address another name (DNS rebinding)."""
    if not is_local(urlsplit(f"//{request.host}").hostname or ""):
        raise web.HTTPForbidden
    return await handler(request)


async def serve_previews(
    read_config: Callable[[], MailConfig], port: int, on_ready: Callable[[str], None], until: asyncio.Event
) -> None:
    """Serve the previews on loopback until `until` is set; `on_ready` gets the address. Raises CannotServe."""
    runner = web.AppRunner(PreviewPages(read_config).app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as error:
            raise CannotServe(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from None
        on_ready(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        await until.wait()
    finally:
        await runner.cleanup()
