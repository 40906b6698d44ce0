"""`billing mail ls|show|requeue|discard|preview`: the e-mail outbox (D8), and the templates."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.commands.outbox_rows import OutboxCommand
from ops.commands.terminal import Column, exits, fail, note, refuse, run_or_exit, say, say_json
from ops.commands.times import minute_text
from schemas.settings import Mail, load_config
from sinks.email.addresses import UnusableAddress
from sinks.email.message import UnsendableMail
from sinks.email.outbox import MailOutbox
from sinks.email.preview import sample_config, serve_previews, write_previews
from sinks.email.template_check import UnusableTemplates, check_templates
from sinks.outbox.claims import Depth
from sinks.outbox.outages import PresentOutage

app = typer.Typer(
    help="List the e-mails in the outbox, requeue failed ones, or preview the templates.", no_args_is_help=True
)

MAILS = OutboxCommand(
    claims=MailOutbox,
    noun="mail",
    columns=(
        Column("key"),
        Column("template"),
        Column("status"),
        Column("tries", right=True),
        Column("to"),
        Column("queued", whole=True),
        Column("last error"),
    ),
    cells=lambda row: (
        row["email_key"],
        row["template"],
        row["status"],
        row["attempts"],
        row["recipient"],
        minute_text(row["queued_at"]),
        row["last_error"],
    ),
)


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

    async def ask(outbox: MailOutbox) -> tuple[Sequence[dict[str, Any]], int, Depth, Sequence[PresentOutage]]:
        found, total = await outbox.listed(status=wanted, kind=template, customer_id=customer, limit=limit)
        return found, total, await outbox.depth(), await outbox.outages()

    rows, total, depth, outages = MAILS.ask("mail ls", ask)
    if depth.oldest_queued_at is not None:
        note(f"{depth.open} queued, the oldest since {minute_text(depth.oldest_queued_at)}")
    for outage in outages:
        note(f"mail server {outage.address} since {minute_text(outage.since)}: {outage.reason}")
    MAILS.show(rows, total, wanted=wanted, as_json=as_json)


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
    MAILS.change(
        "mail requeue",
        keys,
        every,
        lambda outbox, chosen, entry: outbox.requeue(
            keys=chosen, kind=template, answer=answer, limit=limit, entry=entry
        ),
        template=template,
        answer=answer,
        limit=limit,
    )


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
    MAILS.change(
        "mail discard",
        keys,
        every,
        lambda outbox, chosen, entry: outbox.discard(
            keys=chosen, reason=f"discarded by {entry.who}", kind=template, limit=limit, entry=entry
        ),
        changes="queued or failed",
        template=template,
        limit=limit,
    )


@app.command("show")
def show(key: Annotated[str, typer.Argument(help="Key of a mail, as listed by `billing mail ls`.")]) -> None:
    """Print one mail as JSON: its row, its data, and its customer's address.

    Example: billing mail show receipt::in_1

    Exits 1 if there is no such mail.
    """
    row = MAILS.ask("mail show", lambda outbox: outbox.show(key))
    if row is None:
        fail("mail show", f"no mail {key}")
    say_json(row)


@app.command("preview")
def preview(
    out: Annotated[
        Path | None, typer.Option(help="Write the mails into this folder; it is created if missing.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the mails in a browser. A changed wording is seen at the next reload.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve: the port on 127.0.0.1; 0: any.")] = 0,
    locales: Annotated[
        list[str] | None, typer.Option("--locale", help="With --out: language. Repeatable. Default: all languages.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(envvar="BILLING_CONFIG", help="TOML file whose table \\[mail] is used.", exists=True)
    ] = None,
) -> None:
    """Render each mail with sample data, as files or in a browser. Needs no running system.

    Example: billing mail preview --serve --config config.toml

    Exits 2 if an own wording cannot be rendered.
    """
    if serve == (out is not None):
        refuse("mail preview", "either --out DIR or --serve")
    if serve:
        _serve(lambda: _mail_config(config), port)
        return
    with exits("mail preview", no=(UnusableAddress, UnsendableMail)):
        chosen = _mail_config(config)
        known = chosen.languages
        languages = locales or sorted(known)
        if unknown := [locale for locale in languages if re.split("[-_]", locale)[0].lower() not in known]:
            refuse("mail preview", f"--locale {unknown[0]}: no templates; the languages are {', '.join(sorted(known))}")
        try:
            check_templates(chosen)
        except UnusableTemplates as error:
            refuse("mail preview", f"mail.templates: {error}")
        count = write_previews(out or Path(), languages, chosen)
    say(f"{count} files in {out}")


def _mail_config(path: Path | None) -> Mail:
    return load_config(path).mail if path is not None else sample_config()


def _serve(read_config: Callable[[], Mail], port: int) -> None:
    async def until_stopped() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        read_config()  # an invalid config ends the command; a later mistake is shown on the page
        await serve_previews(read_config, port, lambda url: say(f"{url} (Ctrl-C ends it)"), stopped)

    run_or_exit("mail preview", until_stopped)
