"""Signing in by an OpenID provider: the way there, and the answer."""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog
from aiohttp import web

from console.access import Action
from console.identity import Person
from console.oidc_errors import ProviderUnavailable, SignInRefused, TooManySignIns
from console.pages.session import begun, own_path, record, sign_in_form
from console.tries import TooManyTries
from console.web import Answer, Console, Context, Redirect, get
from sinks.postgres.audit_log import ActionOutcome

log = structlog.get_logger(__name__)

_BUSY = "Many people are signing in. Try again in a moment."


async def begin(context: Context) -> Answer:
    """Sends the browser to the provider."""
    from console.oidc import LASTS_S, SignInAttempt

    console = context.console
    if console.oidc is None:
        raise web.HTTPNotFound
    if (
        context.request.host != urlsplit(console.base).netloc
    ):  # the provider answers to the base, and so must the cookie
        return Redirect(f"{console.base}{context.request.rel_url.raw_path_qs}")
    attempt = SignInAttempt.begin(own_path(context.query.get("next", "/")))
    try:
        url = await console.oidc.url_for(attempt, peer=context.peer or "")
    except ProviderUnavailable as error:
        return _unavailable(context, error)
    except (TooManySignIns, TooManyTries):
        return sign_in_form(context, _BUSY, 429)
    response = web.Response(status=303, headers={"Location": url})
    response.set_cookie(
        _cookie(console), attempt.as_cookie(), max_age=LASTS_S, path="/", secure=console.is_secure, httponly=True,
        samesite="Lax",  # the provider's redirect is a navigation from another site
    )  # fmt: skip
    return response


async def callback(context: Context) -> Answer:
    """Signs the person in whom the provider names, or says why not."""
    from console.oidc import SignInAttempt

    console = context.console
    if console.oidc is None:
        raise web.HTTPNotFound
    attempt = SignInAttempt.of_cookie(context.request.cookies.get(_cookie(console), ""))
    try:
        person = await console.oidc.person(attempt, context.query, peer=context.peer or "")
        session = await console.sign_in.begin(person)
        response = await begun(context, session, own_path(attempt.next if attempt is not None else "/"))
    except SignInRefused as error:
        if console.oidc.may_log(context.peer or ""):
            log.warning(
                "console.sign_in_refused", action="console.sign_in_refused", peer=context.peer, reason=str(error)
            )
        if error.who is not None:
            await record(context, Person(error.who, context.person.role), "sign-in", ActionOutcome.REFUSED)
        response = sign_in_form(context, str(error), 403)
        # The person may have a session from before the provider changed its mind.
        if error.who is not None and (token := context.request.cookies.get(console.cookie)):
            await console.sign_in.end(token)
            response.del_cookie(console.cookie, path="/", secure=console.is_secure, httponly=True)
    except (TooManySignIns, TooManyTries):
        return sign_in_form(context, _BUSY, 429)
    except ProviderUnavailable as error:
        response = _unavailable(context, error)
    response.del_cookie(_cookie(console), path="/", secure=console.is_secure, httponly=True)
    return response


def _unavailable(context: Context, error: ProviderUnavailable) -> web.Response:
    oidc = context.console.oidc
    if oidc is not None and oidc.may_log(context.peer or ""):
        log.warning("console.provider_away", action="console.provider_away", error=str(error))
    name = oidc.name if oidc is not None else ""
    return sign_in_form(context, f"Signing in with {name} does not work now: {error}.", 503)


def _cookie(console: Console) -> str:
    return f"{console.cookie}-oidc"


ROUTES = [
    get("/sign-in/oidc", begin, Action.SIGN_IN, is_page=False),
    get("/sign-in/oidc/callback", callback, Action.SIGN_IN, is_page=False),
]
