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
    "up": "ops.commands.up:up",
    "down": "ops.commands.up:down",
    "demo": "ops.commands.demo:demo",
    "gateway": "ops.commands.gateway:gateway",
    "worker": "ops.commands.worker:worker",
    "dispatcher": "ops.commands.dispatcher:dispatcher",
    "scheduler": "ops.commands.scheduler:scheduler",
    "analytics": "ops.commands.analytics:app",
    "migrate": "ops.commands.migrate:migrate",
    "topics": "ops.commands.topics:topics",
    "trigger": "ops.commands.trigger:trigger",
    "event": "ops.commands.event:event",
    "customer": "ops.commands.event:customer",
    "mrr": "ops.commands.mrr:mrr",
    "tap": "ops.commands.tap:tap",
    "contract": "ops.commands.contract:contract",
    "reconcile": "ops.commands.reconcile:reconcile",
    "rebuild": "ops.commands.rebuild:rebuild",
    "diff": "ops.commands.diff:diff",
    "dead": "ops.commands.dead:app",
    "replay": "ops.commands.replay:replay",
    "brake": "ops.commands.brake:app",
    "mail": "ops.commands.mail:app",
    "calls": "ops.commands.calls:app",
    "bench": "ops.commands.bench:bench",
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
