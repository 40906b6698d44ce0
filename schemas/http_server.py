"""What every HTTP server of this project has in common."""

from __future__ import annotations

import logging
from http import HTTPStatus

import orjson
from aiohttp import log, web, web_protocol, web_response, web_urldispatcher
from aiohttp.http_exceptions import HttpProcessingError

SERVER = "billing"


_default_error_page = web_protocol.RequestHandler.handle_error
_default_expect = getattr(web_urldispatcher, "_default_expect_handler")  # noqa: B009  # it has no public name


def hide_internals() -> None:
    """Makes the answers and log lines of aiohttp itself say neither what serves here nor what was sent.

    By default its `Server` header names the versions of Python and aiohttp, its answers to a malformed request and to
    an unknown `Expect` quote them, and so does a traceback in its log. It has no settings for that. Call this before
    routes are made.
    """
    for owner, name, ours in (
        (web_response, "SERVER_SOFTWARE", SERVER),
        (web_protocol.RequestHandler, "handle_error", _short_error_page),
        (web_urldispatcher, "_default_expect_handler", _short_expect),
    ):
        setattr(owner, name, ours)
    log.server_logger.addFilter(_name_malformed)


def _short_error_page(
    self: web.RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
) -> web.StreamResponse:
    """Logs as aiohttp does, and answers with the status' name alone: the message quotes the request."""
    _default_error_page(self, request, status, exc, message)
    response = web.Response(status=status, text=_text(status), content_type="application/json")
    response.force_close()
    return response


def _name_malformed(record: logging.LogRecord) -> bool:
    """Replaces the traceback of a malformed request, which quotes it, by the error's name."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = "malformed HTTP request: %s", (type(error).__name__,)
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True


async def _short_expect(request: web.Request) -> None:
    try:
        await _default_expect(request)
    except web.HTTPExpectationFailed as error:
        raise web.HTTPExpectationFailed(text=_text(error.status), content_type="application/json") from None


def _text(status: int) -> str:
    return orjson.dumps({"error": HTTPStatus(status).phrase.lower()}).decode()
