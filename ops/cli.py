"""`billing …`: the one command line. Each command lives in its own module, imported only when it is asked for.

So a gateway never loads Faust, and `billing event` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

import typer

# In the order of --help: what runs the system, what it consists of, what one asks and repairs.
COMMANDS = {
    "up": "ops.up:up",
    "down": "ops.up:down",
    "demo": "ops.demo:demo",
    "gateway": "ops.gateway:gateway",
    "worker": "ops.worker:worker",
    "dispatcher": "ops.dispatcher:dispatcher",
    "scheduler": "ops.scheduler:scheduler",
    "analytics": "ops.analytics:app",
    "migrate": "ops.migrate:migrate",
    "topics": "ops.topics:topics",
    "trigger": "ops.trigger:trigger",
    "event": "ops.event:event",
    "customer": "ops.event:customer",
    "mrr": "ops.mrr:mrr",
    "tap": "ops.tap:tap",
    "contract": "ops.contract:contract",
    "reconcile": "ops.reconcile:reconcile",
    "rebuild": "ops.rebuild:rebuild",
    "diff": "ops.diff:diff",
    "dead": "ops.dead:app",
    "replay": "ops.replay:replay",
    "brake": "ops.brake:app",
    "mail": "ops.mail:app",
    "calls": "ops.calls:app",
    "bench": "ops.bench:bench",
}


def command_line(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The `billing` command with these of its commands."""
    app = typer.Typer(name="billing", no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def billing() -> None:
        """Stripe webhooks, through Kafka, into Postgres and e-mail: nothing lost, nothing twice, in order."""

    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Entry point of the `billing` script."""
    asked_for = sys.argv[1:2]
    command_line(asked_for if set(asked_for) <= COMMANDS.keys() and asked_for else COMMANDS)()


if __name__ == "__main__":
    main()
