"""Signing in and out, revealing personal data, and the files of the pages."""

from __future__ import annotations

import structlog
from aiohttp import web

from console import passwords, render
from console.access import Action
from console.assets import FOREVER
from console.errors import NotFound, Refused
from console.identity import Person
from console.params import MOST_CHARACTERS
from console.reveals import page_of
from console.tries import TooManyTries
from console.web import Answer, Context, Redirect, get, post
from sinks.postgres.audit_log import ActionOutcome, AuditEntry

log = structlog.get_logger(__name__)

_WRONG = "Name or password is wrong."


async def sign_in_page(context: Context) -> Answer:
    """Shows the form, or uses the one-time token of a link."""
    console = context.console
    if token := context.query.get("token"):
        session = await console.sign_in.with_link(token)
        if session is None:
            return sign_in_form(
                context, "This link was used or has expired. `billing console link` prints a new one.", 403
            )
        return await begun(context, session, "/")
    return sign_in_form(context, None, 200)


async def sign_in(context: Context) -> Answer:
    """Signs in with name and password."""
    form = await context.form()
    name, password = str(form.get("name", "")), str(form.get("password", ""))
    is_too_long = len(name) > MOST_CHARACTERS or len(password) > passwords.MOST_CHARACTERS
    if not context.console.sign_in.has_users or is_too_long:
        return sign_in_form(context, _WRONG, 403)
    try:
        session = await context.console.sign_in.with_password(name, password, peer=context.peer or "")
    except TooManyTries:
        return sign_in_form(context, "Too many wrong passwords. Try again in a minute.", 429)
    if session is None:
        if context.console.sign_in.is_user(name):  # a name that is no user's may be anything, in any number
            await record(context, Person(name, context.person.role), "sign-in", ActionOutcome.REFUSED)
        else:
            log.warning("console.unknown_name", action="console.unknown_name", peer=context.peer)
        return sign_in_form(context, _WRONG, 403)
    return await begun(context, session, own_path(str(form.get("next", "/"))))


async def sign_out(context: Context) -> Answer:
    """Ends the session."""
    console = context.console
    if token := context.request.cookies.get(console.cookie):
        await console.sign_in.end(token)
    console.reveals.close(context.person.who)
    response = web.Response(status=303, headers={"Location": "/sign-in"})
    response.del_cookie(console.cookie, path="/", secure=console.is_secure, httponly=True)
    return response


async def reveal(context: Context) -> Answer:
    """Shows the personal data of one page to this person for fifteen minutes, and records that."""
    path = own_path(str((await context.form()).get("page", "/")))
    page = page_of(path)
    await record(context, context.person, "reveal", ActionOutcome.DONE, target=page)
    context.console.reveals.open(context.person.who, page)
    return Redirect(path)


async def asset(context: Context) -> Answer:
    """Serves a stylesheet, script or icon."""
    found = context.console.assets.find(context.part("name"))
    if found is None:
        raise web.HTTPNotFound
    zips = "gzip" in context.request.headers.get("Accept-Encoding", "")
    headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if zips else {})
    return web.Response(
        body=found.zipped if zips else found.body, content_type=found.content_type, charset="utf-8", headers=headers
    )


def own_path(given: str) -> str:
    """Returns the path if it is one of this console, else `/`. `//host` and `\\host` would leave it."""
    is_own = given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable()
    return given if is_own else "/"


async def begun(context: Context, session: str, to: str) -> web.Response:
    """Records the sign-in and sends the browser on, with the cookie of its session."""
    console = context.console
    person = await console.sign_in.find(session)
    if person is None:
        raise NotFound("the session ended at once")
    await record(context, person, "sign-in", ActionOutcome.DONE)
    response = web.Response(status=303, headers={"Location": to})
    response.set_cookie(
        console.cookie,
        session,
        max_age=int(console.sign_in.lasts.total_seconds()),
        path="/",
        secure=console.is_secure,
        httponly=True,
        # A link in a chat or an alert opens the console signed in; a form of another site does not send the cookie.
        samesite="Lax",
    )
    return response


def sign_in_form(context: Context, problem: str | None, status: int) -> web.Response:
    """Returns the sign-in page, with the reason why the last try did not succeed."""
    console = context.console
    return render.bare(
        console,
        "sign_in.j2",
        status=status,
        problem=problem,
        has_users=console.sign_in.has_users,
        provider=console.oidc.name if console.oidc is not None else None,
        next=own_path(context.query.get("next", "/")),
    )


async def record(context: Context, person: Person, action: str, outcome: ActionOutcome, *, target: str = "") -> None:
    """Writes a row of the audit log. Raises StoreUnavailable, and Refused for a name that is too long."""
    if len(person.who) > MOST_CHARACTERS:
        raise Refused("the name is too long")
    await context.console.actions.records.note(
        AuditEntry(
            who=person.who,
            role=person.role.label,
            action=f"console.{action}",
            target=target,
            outcome=outcome,
            peer=context.peer,
        )
    )


ROUTES = [
    get("/sign-in", sign_in_page, Action.SIGN_IN),
    post("/sign-in", sign_in, Action.SIGN_IN),
    post("/sign-out", sign_out, Action.SIGN_OUT),
    post("/reveal", reveal, Action.REVEAL),
    get("/static/{name}", asset, Action.LOAD_ASSET, is_page=False),
]
