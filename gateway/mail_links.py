"""Serves the links in mails: the download of a customer's export (B6), the unsubscribe page of optional mails, and the
customer portal (portal.py).

A link is looked up only after its signature is verified. If Postgres or the archive store is down, only these links
fail. Every response is a plain page that is not cached and sends no referrer to the next site.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import structlog
from aiohttp import web

from gateway.pages import HEADERS, INCOMPLETE, answer, only, page
from gateway.portal import Portal
from schemas.errors import Transient
from schemas.export import ExportStatus, StoredExport
from schemas.export_link import LinkVerdict, check_export_link
from schemas.timing import utc_now

log = structlog.get_logger(__name__)

MOST_DOWNLOADS = 8
"""Maximum number of simultaneous downloads in this process. Each uses a quarter of a megabyte."""
DOWNLOAD_WITHIN_S = 900.0
ANSWER_WITHIN_S = 10.0
_READY_SOON_S = 15


class Exports(Protocol):
    """Finds and reads archives. Both methods raise StoreUnavailable."""

    async def find(self, export_id: str) -> StoredExport | None: ...
    def chunks(self, export: StoredExport) -> AsyncGenerator[bytes, None]: ...


class Unsubscriptions(Protocol):
    """Stores unsubscribes. `stop` returns False if the token was not issued by this system; raises StoreUnavailable."""

    def is_genuine(self, token: str) -> bool: ...
    async def stop(self, token: str) -> bool: ...


@dataclass(slots=True)
class Links:
    """The handlers and their dependencies; the entry point builds it. `secrets` are the deployment's link secrets."""

    secrets: Sequence[bytes]
    exports: Exports
    unsubscriptions: Unsubscriptions
    clock: Callable[[], datetime] = utc_now
    portal: Portal | None = None
    """Opens Stripe's customer portal; None if the config does not use it."""
    downloads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_DOWNLOADS))

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes to add to the gateway's application."""
        return [
            web.get("/exports/{export_id}", self.download, allow_head=False),
            web.get("/unsubscribe", self.ask_unsubscribe, allow_head=False),
            web.post("/unsubscribe", self.unsubscribe),
            *(self.portal.routes() if self.portal is not None else ()),
        ]

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}?expires=…&signature=…`: sends the archive, or a page with the reason."""
        export_id = request.match_info["export_id"]
        expires, signature = (only(request, name) for name in ("expires", "signature"))
        started = time.perf_counter()
        verdict = check_export_link(self.secrets, export_id, expires, signature, self.clock())
        if verdict is LinkVerdict.FORGED:
            # The id is not logged: a forged link can contain anything.
            return answer("export", "forged", 403, INCOMPLETE)
        if verdict is LinkVerdict.EXPIRED:
            return answer("export", "link_expired", 410, "This link has expired. Please write to us for a new one.")
        if self.downloads.locked():
            return answer("export", "busy", 503, "Many exports are being fetched. Please try again in a minute.", 30)
        async with self.downloads:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    export = await self.exports.find(export_id)
                if export is None:
                    return answer("export", "unknown", 404, "There is no such export.")
                if export.status is not ExportStatus.DONE or self.clock() >= export.expires_at:
                    return _unavailable_page(export)
                return await self._send(request, export, started)
            except (Transient, TimeoutError) as error:
                log.warning("link.unavailable", action="link.unavailable", what="export", error=str(error))
                return answer("export", "unavailable", 503, "Please try again in a few minutes.", 60)

    async def _send(self, request: web.Request, export: StoredExport, started: float) -> web.StreamResponse:
        """Sends the archive. Raises Transient and TimeoutError before the first byte; later aborts the connection."""
        done_at = export.done_at or export.expires_at
        name = f"export-{done_at.astimezone(UTC):%Y-%m-%d}.zip"
        headers = HEADERS | {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Type": "application/zip",
        }
        response = web.StreamResponse(headers=headers)
        response.content_length = export.size
        sent = 0
        outcome = "cut"
        try:
            async with asyncio.timeout(DOWNLOAD_WITHIN_S), aclosing(self.exports.chunks(export)) as chunks:
                async for chunk in chunks:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(chunk)
                    sent += len(chunk)
                if sent == export.size:
                    await response.write_eof()
                    outcome = "sent"
        except ConnectionError:
            outcome = "left"  # the client closed the connection
        except (Transient, TimeoutError) as error:
            if not response.prepared:
                raise
            log.warning("link.cut", action="link.cut", export=export.key, error=str(error), bytes=sent)
        if outcome == "cut" and request.transport is not None:
            request.transport.abort()  # so that the client does not take a partial archive for a complete one
        ms = round((time.perf_counter() - started) * 1000, 1)
        log.info("link.export", action="link.export", outcome=outcome, export=export.key, bytes=sent, ms=ms)
        return response

    async def ask_unsubscribe(self, request: web.Request) -> web.Response:
        """`GET /unsubscribe?token=…`: asks for confirmation, because mail programs open links by themselves."""
        token = only(request, "token")
        if not self.unsubscriptions.is_genuine(token):
            return answer("unsubscribe", "forged", 403, INCOMPLETE)
        form = (
            f'<form method="post" action="?token={html.escape(token)}">'
            '<button type="submit">Stop these mails</button></form>'
        )
        return page(200, "Would you like to receive no more of these mails?", form)

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """`POST /unsubscribe?token=…` (RFC 8058: one click; the body is not read)."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                is_done = await self.unsubscriptions.stop(only(request, "token"))
        except (Transient, TimeoutError) as error:
            log.warning("link.unavailable", action="link.unavailable", what="unsubscribe", error=str(error))
            response = answer("unsubscribe", "unavailable", 503, "Please try again in a few minutes.", 60)
        else:
            if is_done:
                response = answer("unsubscribe", "done", 200, "You will receive no more of these mails.")
            else:
                response = answer("unsubscribe", "forged", 403, INCOMPLETE)
        if not request.content.is_eof():
            response.force_close()  # the body was not read
        return response


def _unavailable_page(export: StoredExport) -> web.Response:
    match export.status:
        case ExportStatus.QUEUED | ExportStatus.WORKING:
            text = "Your export is being prepared. Please open this link again in a minute."
            return answer("export", "being_made", 202, text, _READY_SOON_S)
        case ExportStatus.FAILED:
            return answer("export", "failed", 503, "Your export could not be made. Please write to us.", 3600)
        case _:
            return answer("export", "gone", 410, "This export is no longer kept.")
