"""`billing …`: the one command line. Each command lives in its own module and is wired here."""

from __future__ import annotations

import typer

from ops.gateway import gateway
from ops.topics import topics

app = typer.Typer(
    name="billing",
    help="Stripe webhooks, through Kafka, into Postgres and e-mail: nothing lost, nothing twice, in order.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(gateway)
app.command()(topics)


def main() -> None:
    """Entry point of the `billing` script."""
    app()


if __name__ == "__main__":
    main()
