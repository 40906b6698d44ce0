"""What every request passes: the Host check, the check of the form's origin, sign-in, roles, and safe headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web

from console import render
from console.access import LEAST_ROLE, Action, is_served, may
from console.errors import NotFound, Refused
from console.identity import Person, from_proxy
from console.reads import FAILURES
from console.web import CONSOLE, PERSON, Answer, Console, Context, Page, Redirect, Route
from schemas.console_settings import LOOPBACK
from schemas.errors import BillingError, StoreUnavailable
from schemas.urls import parts_of

log = structlog.get_logger(__name__)

_SAFE = frozenset({"GET", "HEAD"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RouteWithoutRole(BillingError):
    """A route's action is not in the table of console/access.py."""


@web.middleware
async def safe(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Refuses foreign hosts and foreign forms, and adds the headers to each answer."""
    console = request.app[CONSOLE]
    response: web.StreamResponse
    if not is_own_host(request.host, console):
        response = web.Response(status=421, text="This console does not serve the host of this request.\n")
    elif request.method not in _SAFE and not is_own_form(request):
        response = web.Response(status=403, text="This form was not sent by a page of this console.\n")
    else:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _not_served(request, error)
        except Exception:  # a bug: its page has the headers, too, and says where its traceback is
            log.exception("console.bug", action="console.bug", method=request.method, path=request.path)
            if _wants_json(request):
                response = web.json_response({"error": "This is a bug: see console.bug in the log."}, status=500)
            else:
                response = render.bare(console, "bug.j2", status=500)
    if not response.prepared:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response


def is_own_host(host: str, console: Console) -> bool:
    """Returns whether the `Host` header names this console. Another name may be a DNS rebinding attack."""
    if console.settings.console_public_url:
        return host == urlsplit(console.base).netloc
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


def is_own_form(request: web.Request) -> bool:
    """Returns whether a page of this console sent this form. Browsers set these headers; scripts cannot."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and parts_of(origin).netloc == request.host


def protected(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Returns the handler behind sign-in and roles. Raises RouteWithoutRole."""
    if route.action not in LEAST_ROLE:
        raise RouteWithoutRole(f"{route.method} {route.path}: {route.action}")

    async def handle(request: web.Request) -> web.StreamResponse:
        console = request.app[CONSOLE]
        try:
            person = await person_of(request, console)
        except StoreUnavailable as error:
            return _away(request, error)
        if person is None:
            return _sign_in_first(request)
        context = Context(request, console, person)
        if not may(person.role, route.action):
            needed = LEAST_ROLE[route.action]
            message = (
                f"Role {needed.label if needed else ''} is needed to {route.action}; you have {person.role.label}."
            )
            return _problem(context, "Not allowed", message, 403)
        try:
            answer = await route.handler(context)
            if route.method not in _SAFE and route.action is not Action.REVEAL:
                console.reads.expire()  # the next page shows what has changed
            return _sent(context, answer)
        except NotFound as error:
            return _problem(context, "Not found", str(error), 404)
        except Refused as error:
            return _problem(context, "Not done", str(error), 400)
        except FAILURES as error:
            log.warning("console.page_failed", action="console.page_failed", path=route.path, error=str(error))
            return _problem(context, "No answer", str(error), 503)

    async def open_to_all(request: web.Request) -> web.StreamResponse:
        console = request.app[CONSOLE]
        try:
            return _sent_openly(await route.handler(Context(request, console, _ANYONE)))
        except (NotFound, Refused) as error:
            return _refused(request, error)
        except FAILURES as error:
            log.warning("console.page_failed", action="console.page_failed", path=route.path, error=str(error))
            return _away(request, error)

    return handle if LEAST_ROLE[route.action] is not None else open_to_all


def register(app: web.Application, routes: list[Route], *, read_only: bool) -> None:
    """Adds the routes that this console serves. Raises RouteWithoutRole."""
    for route in routes:
        handler = protected(route)
        if is_served(route.action, read_only=read_only):
            app.router.add_route(route.method, route.path, handler)


async def person_of(request: web.Request, console: Console) -> Person | None:
    """Returns who sends this request. Raises StoreUnavailable."""
    person = from_proxy(console.config.console.proxy, request.remote or "", request.headers)
    if person is None and (token := request.cookies.get(console.cookie)):
        person = await console.sign_in.find(token)
    if person is not None:
        request[PERSON] = person
    return person


def _wants_json(request: web.Request) -> bool:
    accepted = request.headers.get("Accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _refused(request: web.Request, error: NotFound | Refused) -> web.StreamResponse:
    """Returns why a request without a session is refused, as a page for a browser."""
    status = 404 if isinstance(error, NotFound) else 400
    if _wants_json(request):
        return web.json_response({"error": str(error)}, status=status)
    return render.bare(request.app[CONSOLE], "refused.j2", status=status, reason=str(error))


def _away(request: web.Request, error: Exception) -> web.StreamResponse:
    """Returns that Postgres does not answer, to a person of whom nothing is known."""
    reason = str(error) or type(error).__name__
    if _wants_json(request):
        return web.json_response({"error": reason}, status=503)
    return render.bare(request.app[CONSOLE], "away.j2", status=503, reason=reason)


def _sign_in_first(request: web.Request) -> web.StreamResponse:
    """Sends a browser to the sign-in, or at once to the provider if it was signed in before."""
    console = request.app[CONSOLE]
    if request.method in _SAFE and "text/html" in request.headers.get("Accept", ""):
        was_signed_in = console.cookie in request.cookies
        is_renewed = console.oidc is not None and was_signed_in and not console.sign_in.has_users
        to = f"{'/sign-in/oidc' if is_renewed else '/sign-in'}?next={quote(request.rel_url.raw_path_qs, safe='')}"
        return web.Response(status=303, headers={"Location": to})
    return web.json_response({"error": "not signed in"}, status=401)


def _sent(context: Context, answer: Answer) -> web.StreamResponse:
    if isinstance(answer, Redirect):
        return web.Response(status=303, headers={"Location": answer.to})
    return render.answer(context, answer) if isinstance(answer, Page) else answer


def _sent_openly(answer: Answer) -> web.StreamResponse:
    if isinstance(answer, Page):
        raise TypeError("an open route renders its page itself")
    return web.Response(status=303, headers={"Location": answer.to}) if isinstance(answer, Redirect) else answer


def _problem(context: Context, title: str, message: str, status: int) -> web.StreamResponse:
    return render.answer(context, Page("problem.j2", title, {"error": message}, status))


def _not_served(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status == 404 and "text/html" in request.headers.get("Accept", ""):
        return render.bare(request.app[CONSOLE], "missing.j2", status=404)
    return web.json_response({"error": error.reason}, status=error.status)


_ANYONE = Person("", min(role for role in LEAST_ROLE.values() if role is not None))
