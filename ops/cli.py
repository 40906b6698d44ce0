"""The `billing` command line. The module of a command is imported only when that command is called.

Therefore a gateway never loads Faust, and `billing event` starts fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

import typer

# In the order of --help: run the whole system, single processes, set-up, queries, repairs.
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
    "simulate": "ops.commands.simulate:simulate",
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
    """Return the `billing` command with the named subcommands."""
    app = typer.Typer(name="billing", no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def billing() -> None:
        """Process Stripe webhooks through Kafka into Postgres and e-mail.

        No event is lost or applied twice, and the events of a customer are applied in order.
        """

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
    named = sys.argv[1:2]
    command_line(named if set(named) <= COMMANDS.keys() and named else COMMANDS)()


if __name__ == "__main__":
    main()
