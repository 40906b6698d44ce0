"""`billing mail ls|requeue|preview`: lists the e-mail outbox, queues failed mails again (D8), renders the templates."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ops.commands.terminal import EXIT_INVALID_SETTINGS, PIPE_WIDTH, printable
from schemas.errors import StoreUnavailable
from schemas.settings import InvalidSettings, load_config, load_settings
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
    rows = _with_outbox(lambda outbox: outbox.list(status=wanted, kind=template, customer_id=customer, limit=limit))
    if as_json:
        for row in rows:
            typer.echo(orjson.dumps(row).decode())
        return
    if not rows:
        typer.echo(f"no {wanted + ' ' if wanted else ''}mails")
        return
    rest = ("template", "status", "tries", "to", "queued", "last error")
    table = Table(
        Column("key", no_wrap=True), *rest, box=None, pad_edge=False
    )  # the key is copied into `requeue`, so it must be complete
    for row in rows:
        queued = f"{row['queued_at']:%Y-%m-%d %H:%M}"
        recipient, error = row["recipient"] or "", row["last_error"] or ""
        cells = (row["email_key"], row["template"], row["status"], str(row["attempts"]), recipient, queued, error)
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


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
        typer.echo("billing mail requeue: give keys or --all", err=True)
        raise typer.Exit(2)
    chosen = None if every else list(keys or ())
    done = _with_outbox(lambda outbox: outbox.requeue(keys=chosen, kind=template, limit=limit))
    for key in done:
        typer.echo(key)
    missing = sorted(set(chosen or ()) - set(done))
    typer.echo(f"{len(done)} requeued", err=True)
    if missing:
        typer.echo(f"not a failed mail: {', '.join(missing)}", err=True)
        raise typer.Exit(1)


@app.command("preview")
def preview(
    out: Annotated[Path, typer.Option(help="Output folder; created if missing.")],
    locales: Annotated[
        list[str] | None, typer.Option("--locale", help="Language. Repeatable. Default: en and de.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the [mail] table to use.", exists=True)] = None,
) -> None:
    """Render each mail template with sample data as .html, .txt and .eml. Needs no running system.

    Example: billing mail preview --out previews --locale de-AT
    """
    try:
        mail_config = load_config(config).mail if config is not None else _sample_config().mail
        count = write_previews(out, locales or ["en", "de"], mail_config)
    except (InvalidSettings, UnusableAddress) as error:
        typer.echo(f"billing mail preview: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    typer.echo(f"{count} files in {out}")


def _with_outbox(work: Callable[[Outbox], Awaitable[T]]) -> T:
    async def go(url: Any) -> T:
        outbox = await Outbox.connect(url, claimer="operator", pool_size=1, application="billing-ops")
        try:
            return await work(outbox)
        finally:
            await outbox.close()

    try:
        return asyncio.run(go(load_settings().database_url))
    except InvalidSettings as error:
        typer.echo(f"billing mail: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except StoreUnavailable as error:
        typer.echo(f"billing mail: Postgres does not answer: {error}", err=True)
        raise typer.Exit(1) from None
