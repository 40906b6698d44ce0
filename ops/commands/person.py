"""The arguments and the table of the commands about one person's data: `billing erase` and `billing export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from ops.commands.terminal import Column, show_rows
from sinks.postgres.pool import SessionTimeouts

BOUNDS = SessionTimeouts(statement_s=600.0)

WHO_HELP = "Customer id (cus_…), user id, or e-mail address, also of a guest."
Who = Annotated[str, typer.Argument(help=WHO_HELP)]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit log. Addresses in it are replaced by a digest.")]
Account = Annotated[
    str | None, typer.Option(help="Only this connected account (acct_…); '' for your own. Default: every one.")
]
By = Annotated[str | None, typer.Option(help="Your name, for the audit log. Default: the system user.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show_counts(name: str, counts: Mapping[str, int]) -> None:
    """Prints the rows of one customer or guest, by table."""
    show_rows([Column("table"), Column("rows", right=True)], list(counts.items()), title=name)
