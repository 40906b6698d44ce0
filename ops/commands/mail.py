"""`billing mail ls|show|requeue|discard|preview`: the e-mail outbox (D8), and the templates."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ops.commands.acting import entry_for, keys_or_all
from ops.commands.terminal import (
    Column,
    database_or_exit,
    exits,
    fail,
    note,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_rows,
)
from schemas.mail import LANGUAGES
from schemas.settings import load_config
from sinks.email.addresses import UnusableAddress
from sinks.email.outbox import Outbox
from sinks.email.samples import _sample_config, write_previews
from sinks.outbox.claims import Depth
from sinks.outbox.outages import PresentOutage

app = typer.Typer(
    help="List the e-mails in the outbox, requeue failed ones, or preview the templates.", no_args_is_help=True
)

T = TypeVar("T")


class MailStatus(StrEnum):
    """Statuses of a mail in the outbox that `ls` can filter by."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    WITHHELD = "withheld"


@app.command("ls")
def ls(
    status: Annotated[MailStatus | None, typer.Option(help="Only mails with this status.")] = MailStatus.FAILED,
    every: Annotated[bool, typer.Option("--all", help="Mails with any status.")] = False,
    template: Annotated[str | None, typer.Option(help="Only mails with this template.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only mails of this customer (cus_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List mails, newest first. By default only failed ones. Also shows how many are queued, and an outage.

    Example: billing mail ls --status queued --template payment-receipt --json
    """
    wanted = None if every or status is None else status.value

    async def ask(outbox: Outbox) -> tuple[Sequence[dict[str, Any]], int, Depth, Sequence[PresentOutage]]:
        found, total = await outbox.listed(status=wanted, kind=template, customer_id=customer, limit=limit)
        return found, total, await outbox.depth(), await outbox.outages()

    rows, total, depth, outages = _with_outbox("mail ls", ask)
    if depth.oldest_queued_at is not None:
        note(f"{depth.open} queued, the oldest since {depth.oldest_queued_at:%Y-%m-%d %H:%M} UTC")
    for outage in outages:
        note(f"mail server {outage.address} since {outage.since:%Y-%m-%d %H:%M} UTC: {outage.reason}")
    if as_json:
        for row in rows:
            say_json(row)
        say_cut(len(rows), total, as_json=True)
        return
    if not rows:
        say(f"no {wanted + ' ' if wanted else ''}mails")
        return
    show_rows(
        (
            Column("key"),
            Column("template"),
            Column("status"),
            Column("tries", right=True),
            Column("to"),
            Column("queued", whole=True),
            Column("last error"),
        ),
        [
            (
                row["email_key"],
                row["template"],
                row["status"],
                row["attempts"],
                row["recipient"],
                f"{row['queued_at']:%Y-%m-%d %H:%M}",
                row["last_error"],
            )
            for row in rows
        ],
    )
    say_cut(len(rows), total, as_json=False)


@app.command("requeue")
def requeue(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of mails, as listed by `billing mail ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed mails, oldest first, up to --limit.")] = False,
    template: Annotated[str | None, typer.Option(help="With --all: only mails with this template.")] = None,
    answer: Annotated[str | None, typer.Option(help="With --all: only mails whose last error contains this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Queue failed mails again, with a new set of tries. Withheld mails only by their key.

    Example: billing mail requeue --all --answer "relay access denied"

    Exits 1 if a given key does not belong to a failed or withheld mail.
    """
    if bool(keys) == every:
        refuse("mail requeue", "give keys or --all")
    chosen = None if every else list(keys or ())
    entry = entry_for("mail requeue", filter=keys_or_all(chosen, template=template, answer=answer, limit=limit))
    done = _with_outbox(
        "mail requeue",
        lambda outbox: outbox.requeue(keys=chosen, kind=template, answer=answer, limit=limit, entry=entry),
    )
    for key in done:
        say(key)
    missing = sorted(set(chosen or ()) - set(done))
    note(f"{len(done)} requeued")
    if missing:
        fail("mail requeue", f"not a failed mail: {', '.join(missing)}")


@app.command("discard")
def discard(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of mails, as listed by `billing mail ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All queued and failed mails, up to --limit.")] = False,
    template: Annotated[str | None, typer.Option(help="With --all: only mails with this template.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Withhold queued or failed mails: they are not sent, and no alarm counts them. `requeue KEY` takes it back.

    Example: billing mail discard --all --template win-back

    Exits 1 if a given key does not belong to a queued or failed mail.
    """
    if bool(keys) == every:
        refuse("mail discard", "give keys or --all")
    chosen = None if every else list(keys or ())
    entry = entry_for("mail discard", filter=keys_or_all(chosen, template=template, limit=limit))
    reason = f"discarded by {entry.who}"
    done = _with_outbox(
        "mail discard",
        lambda outbox: outbox.discard(keys=chosen, reason=reason, kind=template, limit=limit, entry=entry),
    )
    for key in done:
        say(key)
    missing = sorted(set(chosen or ()) - set(done))
    note(f"{len(done)} discarded")
    if missing:
        fail("mail discard", f"not a queued or failed mail: {', '.join(missing)}")


@app.command("show")
def show(key: Annotated[str, typer.Argument(help="Key of a mail, as listed by `billing mail ls`.")]) -> None:
    """Print one mail as JSON: its row, its data, and its customer's address.

    Example: billing mail show receipt::in_1

    Exits 1 if there is no such mail.
    """
    row = _with_outbox("mail show", lambda outbox: outbox.show(key))
    if row is None:
        fail("mail show", f"no mail {key}")
    say_json(row)


@app.command("preview")
def preview(
    out: Annotated[Path, typer.Option(help="Output folder; created if missing.")],
    locales: Annotated[
        list[str] | None, typer.Option("--locale", help="Language. Repeatable. Default: en and de.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file whose table `mail` is used.", exists=True)] = None,
) -> None:
    """Render each mail template with sample data as .html, .txt and .eml. Needs no running system.

    Example: billing mail preview --out previews --locale de-AT
    """
    languages = locales or sorted(LANGUAGES)
    if unknown := [locale for locale in languages if re.split("[-_]", locale)[0].lower() not in LANGUAGES]:
        refuse("mail preview", f"--locale {unknown[0]}: no templates; the languages are {', '.join(sorted(LANGUAGES))}")
    with exits("mail preview", no=(UnusableAddress,)):
        mail_config = load_config(config).mail if config is not None else _sample_config().mail
        count = write_previews(out, languages, mail_config)
    say(f"{count} files in {out}")


def _with_outbox(command: str, work: Callable[[Outbox], Awaitable[T]]) -> T:
    settings = database_or_exit(command)

    async def go() -> T:
        outbox = await Outbox.connect(settings.database_url, claimer="operator", pool_size=1, application="billing-ops")
        try:
            return await work(outbox)
        finally:
            await outbox.close()

    return run_or_exit(command, go)
