"""`billing mail ls|show|requeue|discard|preview`: the e-mail outbox (D8), and the templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.commands.outbox_rows import OutboxCommand
from ops.commands.terminal import Column, exits, fail, note, refuse, say, say_json
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

MAILS = OutboxCommand(
    claims=Outbox,
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
        f"{row['queued_at']:%Y-%m-%d %H:%M}",
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

    async def ask(outbox: Outbox) -> tuple[Sequence[dict[str, Any]], int, Depth, Sequence[PresentOutage]]:
        found, total = await outbox.listed(status=wanted, kind=template, customer_id=customer, limit=limit)
        return found, total, await outbox.depth(), await outbox.outages()

    rows, total, depth, outages = MAILS.ask("mail ls", ask)
    if depth.oldest_queued_at is not None:
        note(f"{depth.open} queued, the oldest since {depth.oldest_queued_at:%Y-%m-%d %H:%M} UTC")
    for outage in outages:
        note(f"mail server {outage.address} since {outage.since:%Y-%m-%d %H:%M} UTC: {outage.reason}")
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
