"""The outboxes and the mails: lists, the preview of a mail, and queueing failed entries again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote

from aiohttp import web

from console import params
from console.access import Action
from console.errors import NotFound
from console.forms import confirmed, form_values
from console.identity import Person
from console.reads import panels
from console.reveals import page_of
from console.web import Answer, Console, Context, Page, Redirect, get, post
from sinks.email.message import Composer, QueuedMail, RecipientUnknown, UnsendableMail
from sinks.email.samples import SAMPLES
from sinks.outbox.claims import claims_of
from sinks.postgres.lists import PAGE, Found, outboxes, overview
from sinks.postgres.outboxes import BY_TABLE, EMAILS, OUTBOXES

MOST_AT_ONCE = 100_000

PREVIEW_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"
"""The policy of a mail's HTML: nothing is loaded, run or sent, whatever the mail contains."""


async def overview_page(context: Context) -> Answer:
    """Shows how each outbox is."""
    found = await panels(
        {
            "outboxes": context.console.reads.ask(overview.outboxes),
            "outages": context.console.reads.ask(overview.outages),
        }
    )
    return Page("outboxes.j2", "Outboxes", found, live=True)


async def listing(context: Context) -> Answer:
    """Shows the entries of one outbox."""
    return await _listing(context, context.part("name"))


async def mails(context: Context) -> Answer:
    """Shows the mails."""
    return await _listing(context, EMAILS.name)


async def mail(context: Context) -> Answer:
    """Shows one mail: its row, its preview, and how often it was tried."""
    key = context.part("key")
    found = await context.console.reads.ask(lambda c: outboxes.entry(c, EMAILS.name, key))
    if found is None:
        raise NotFound(f"There is no mail {key}.")
    composed, problem = await _composed(context.console, found)
    data = {
        "mail": found,
        "key": key,
        "problem": problem,
        "subject": str(composed["Subject"]) if composed else None,
        "headers": {"data": [(name, str(value)) for name, value in composed.items()]} if composed else None,
        "text": {"data": _part(composed, "plain")} if composed else None,
        "form_key": secrets.token_urlsafe(16),
    }
    return Page("mail.j2", f"Mail {key}", data)


async def preview(context: Context) -> Answer:
    """Sends a mail's HTML for the sandboxed frame, rendered with today's template."""
    key = context.part("key")
    if not context.console.reveals.is_open(context.person.who, page_of(f"/mails/{quote(key)}")):
        raise NotFound("Reveal the mail's data on its page first.")
    found = await context.console.reads.ask(lambda c: outboxes.entry(c, EMAILS.name, key))
    if found is None:
        raise NotFound(f"There is no mail {key}.")
    composed, problem = await _composed(context.console, found)
    if composed is None:
        raise NotFound(problem or "There is no preview.")
    return _framed(_part(composed, "html"))


async def templates(context: Context) -> Answer:
    """Shows every template with sample data."""
    locale = params.text(context.query, "locale") or "en"
    names = sorted(SAMPLES)
    name = params.text(context.query, "template") or names[0]
    if name not in SAMPLES:
        raise NotFound(f"There is no template {name}.")
    locales = sorted(context.console.config.mail.languages)
    data = {"names": names, "name": name, "locale": locale, "locales": locales}
    return Page("templates.j2", "Mail templates", data)


async def sample(context: Context) -> Answer:
    """Sends a template's HTML with sample data for the sandboxed frame."""
    name, locale = context.part("name"), params.text(context.query, "locale") or "en"
    if name not in SAMPLES:
        raise NotFound(f"There is no template {name}.")
    row = {
        "email_key": f"preview/{name}", "event_id": "evt_preview", "account": "", "customer_id": "cus_preview",
        "template": name, "recipient": "jane.doe@example.com", "locale": locale, "livemode": True,
        "data": dict(SAMPLES[name]), "attempts": 1,
    }  # fmt: skip
    composed, problem = await _composed(context.console, row)
    if composed is None:
        raise NotFound(problem or "There is no preview.")
    return _framed(_part(composed, "html"))


async def resend(context: Context) -> Answer:
    """Queues one failed or withheld mail again."""
    form = {name: str(value) for name, value in (await context.form()).items()}
    reason = params.text(form, "reason") or None
    chosen = Chosen(key=context.part("key"))
    return Redirect(await _requeue(context, EMAILS.name, form.get("key", ""), chosen, reason=reason))


async def requeue_form(context: Context) -> Answer:
    """Shows how many failed entries would be queued again."""
    name = _known(context.part("name"))
    kind = params.text(context.query, "kind")
    now = context.console.clock()
    ask = context.console.reads.ask
    count = await ask(lambda c: outboxes.failed(c, name, kind=kind, until=now))
    rows, _ = await ask(lambda c: outboxes.entries(c, name, status="failed", kind=kind, but_erased=True, most=10))
    data = {
        "name": name, "kind": kind, "rows": rows,
        "key_column": BY_TABLE[name].key, "kind_column": BY_TABLE[name].kind, "since": BY_TABLE[name].since,
        "command": f"billing {BY_TABLE[name].command} requeue --all", **form_values(min(count, MOST_AT_ONCE), now),
    }  # fmt: skip
    return Page("requeue_form.j2", f"Queue failed {name.replace('_', ' ')} again", data)


async def requeue(context: Context) -> Answer:
    """Queues the failed entries of an outbox again that the form has counted."""
    name = _known(context.part("name"))
    form = await confirmed(context, "entries")
    kind = params.text(form.fields, "kind") or None
    chosen = Chosen(kind=kind, until=form.seen_at, limit=min(form.count, MOST_AT_ONCE))
    return Redirect(await _requeue(context, name, form.key, chosen, reason=form.reason))


async def _listing(context: Context, name: str) -> Answer:
    outbox, query = BY_TABLE[_known(name)], context.query
    status, kind = params.text(query, "status"), params.text(query, "kind")
    before = params.place(query, "before")
    found = await panels(
        {
            "page": context.console.reads.ask(
                lambda c: outboxes.entries(
                    c, name, status=status, kind=kind, but_erased=status == "failed", before=before
                )
            ),
            "depths": context.console.reads.ask(overview.outboxes),
        }
    )
    is_page = isinstance(found["page"], tuple)
    entries, more = found["page"] if is_page else (found["page"], None)
    depths = found["depths"]
    data = {
        "name": name,
        "outbox": {"key": outbox.key, "kind": outbox.kind, "since": outbox.since, "done": outbox.done,
                   "busy": outbox.busy, "command": outbox.command},
        "entries": entries,
        "next": params.place_text(*more) if more else None,
        "is_cut": more is not None and len(entries) < PAGE,
        "depth": next((one for one in depths if one["outbox"] == name), None) if isinstance(depths, list) else depths,
    }  # fmt: skip
    return Page("entries.j2", "Mails" if name == EMAILS.name else name.replace("_", " ").capitalize(), data, live=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which entries are queued again: one, or failed ones that were queued until a time, the oldest first."""

    key: str | None = None
    kind: str | None = None
    until: datetime | None = None
    limit: int = 1


async def _requeue(context: Context, name: str, form_key: str, chosen: Chosen, *, reason: str | None) -> str:
    console, person = context.console, context.person
    keys = [chosen.key] if chosen.key is not None else None
    filter_ = {"kind": chosen.kind} if chosen.kind else {}

    async def work() -> Mapping[str, Any]:
        claims = await claims_of(BY_TABLE[name]).connect(
            console.settings.database_url,
            claimer=_claimer(person),
            pool_size=1,
            application="billing-console",
        )
        try:
            verb = f"{BY_TABLE[name].command}.requeue"
            entry = context.entry(verb, target=chosen.key or "", filter=filter_, reason=reason)
            changed = await claims.requeue(
                keys=keys, kind=chosen.kind, until=chosen.until, limit=chosen.limit, entry=entry
            )
        finally:
            await claims.close()
        return {"changed": len(changed), "skipped": chosen.limit - len(changed), "keys": list(changed[:100])}

    what = "resend a mail" if keys else f"requeue failed {name.replace('_', ' ')}"
    return await console.actions.perform(
        form_key, person, what, work, target=chosen.key or name, filter=filter_, reason=reason,
        peer=context.peer,
    )  # fmt: skip


def _claimer(person: Person) -> str:
    return f"console:{person.who}"


def _known(name: str) -> str:
    if name not in {outbox.name for outbox in OUTBOXES}:
        raise NotFound(f"There is no outbox {name}.")
    return name


async def _composed(console: Console, found: Found) -> tuple[EmailMessage | None, str | None]:
    """Returns the message of a row as today's template makes it, or None and the reason."""
    if not found["data"]:
        return None, "Its data was erased, so there is no preview."
    person = await console.reads.ask(lambda c: _customer(c, found))
    now = datetime.now(UTC)
    mail = QueuedMail(
        key=found["email_key"], event_id=found["event_id"], account=found["account"],
        customer_id=found["customer_id"], template=found["template"], recipient=found["recipient"],
        locale=found["locale"], livemode=found["livemode"], data=found["data"], attempts=found["attempts"], now=now,
        age=timedelta(0), customer_email=person.get("email"), customer_locale=person.get("locale"),
    )  # fmt: skip
    try:
        return Composer(console.config.mail).compose(mail, now).message, None
    except (RecipientUnknown, UnsendableMail) as error:
        return None, f"It cannot be composed: {error or 'no recipient is known'}"


async def _customer(connection: Any, found: Found) -> Found:
    from sinks.postgres.lists import row

    one = await row(
        connection,
        "SELECT email, locale, name FROM billing.customers WHERE account = :account AND customer_id = :customer_id",
        {"account": found["account"], "customer_id": found["customer_id"]},
    )
    return one or {}


def _part(message: EmailMessage | None, subtype: str) -> str:
    body = message.get_body((subtype,)) if message is not None else None
    return str(body.get_content()) if body is not None else ""


def _framed(html: str) -> web.Response:
    return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": PREVIEW_POLICY})


ROUTES = [
    get("/outboxes", overview_page),
    get("/outboxes/{name}", listing),
    get("/outboxes/{name}/requeue", requeue_form, Action.REQUEUE),
    post("/outboxes/{name}/requeue", requeue, Action.REQUEUE),
    get("/mails", mails),
    get("/templates", templates),
    get("/templates/{name}", sample, is_page=False),
    get("/mails/{key}", mail),
    get("/mails/{key}/preview", preview, Action.REVEAL, is_page=False),
    post("/mails/{key}/resend", resend, Action.RESEND_MAIL),
]
