"""`billing mail ls|requeue|preview`: lists the e-mail outbox, queues failed mails again (D8), renders the templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ops.commands.terminal import (
    Column,
    exits,
    fail,
    note,
    refuse,
    run_or_exit,
    say,
    say_json,
    settings_or_exit,
    show_rows,
)
from schemas.settings import load_config
from sinks.email.addresses import UnusableAddress
from sinks.email.outbox import Outbox
from sinks.email.samples import _sample_config, write_previews

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


@app.command("ls")
def ls(
    status: Annotated[MailStatus | None, typer.Option(help="Only mails with this status.")] = MailStatus.FAILED,
    every: Annotated[bool, typer.Option("--all", help="Mails with any status.")] = False,
    template: Annotated[str | None, typer.Option(help="Only mails with this template.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only mails of this customer (cus_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List mails, newest first. By default only failed ones.

    Example: billing mail ls --status queued --template payment-receipt --json
    """
    wanted = None if every or status is None else status.value
    rows = _with_outbox(
        "mail ls", lambda outbox: outbox.list(status=wanted, kind=template, customer_id=customer, limit=limit)
    )
    if as_json:
        for row in rows:
            say_json(row)
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


@app.command("requeue")
def requeue(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of mails, as listed by `billing mail ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed mails, oldest first, up to --limit.")] = False,
    template: Annotated[str | None, typer.Option(help="With --all: only mails with this template.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Queue failed mails again, with a new set of tries.

    Example: billing mail requeue --all --template payment-receipt

    Exits 1 if a given key does not belong to a failed mail.
    """
    if bool(keys) == every:
        refuse("mail requeue", "give keys or --all")
    chosen = None if every else list(keys or ())
    done = _with_outbox("mail requeue", lambda outbox: outbox.requeue(keys=chosen, kind=template, limit=limit))
    for key in done:
        say(key)
    missing = sorted(set(chosen or ()) - set(done))
    note(f"{len(done)} requeued")
    if missing:
        fail("mail requeue", f"not a failed mail: {', '.join(missing)}")


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
    with exits("mail preview", no=(UnusableAddress,)):
        mail_config = load_config(config).mail if config is not None else _sample_config().mail
        count = write_previews(out, locales or ["en", "de"], mail_config)
    say(f"{count} files in {out}")


def _with_outbox(command: str, work: Callable[[Outbox], Awaitable[T]]) -> T:
    settings = settings_or_exit(command)

    async def go() -> T:
        outbox = await Outbox.connect(settings.database_url, claimer="operator", pool_size=1, application="billing-ops")
        try:
            return await work(outbox)
        finally:
            await outbox.close()

    return run_or_exit(command, go)
