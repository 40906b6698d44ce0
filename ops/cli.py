"""`billing …`: the one command line. Each command lives in its own module and is wired here."""

from __future__ import annotations

import typer

from ops.event import customer, event
from ops.gateway import gateway
from ops.migrate import migrate
from ops.topics import topics
from ops.up import down, up

app = typer.Typer(
    name="billing",
    help="Stripe webhooks, through Kafka, into Postgres and e-mail: nothing lost, nothing twice, in order.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(gateway)
app.command()(topics)
app.command()(up)
app.command()(down)
app.command()(migrate)
app.command()(event)
app.command()(customer)


def main() -> None:
    """Entry point of the `billing` script."""
    app()


if __name__ == "__main__":
    main()
