"""`billing dispatcher`: the process that delivers mails, Stripe calls and exports."""

from __future__ import annotations

import asyncio

import typer
import uvloop

from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.processes.dispatcher import mail_parts, run, stripe_parts
from ops.runtime.health import OpsAddressTaken
from schemas.settings import InvalidSettings
from sinks.exports.storage import check_exports


def dispatcher() -> None:
    """Send queued e-mails, write and delete exports, and make queued calls to Stripe if BILLING_STRIPE_API_KEY is set.

    Example: billing dispatcher

    Several dispatchers may run at once. On SIGTERM it finishes its claimed rows and exits 0. Exits 1 if the ops port is
    in use, 2 if a setting is invalid, 70 if it is stuck.
    """
    settings, config = settings_and_config()
    try:
        server, composer = mail_parts(settings, config)
        stripe_parts(settings)
        check_exports(settings)
    except InvalidSettings as error:
        typer.echo(f"billing dispatcher: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(settings, config, server, composer))
        except InvalidSettings as error:
            typer.echo(f"billing dispatcher: {error}", err=True)
            raise typer.Exit(EXIT_INVALID_SETTINGS) from None
        except OpsAddressTaken as error:
            typer.echo(f"billing dispatcher: {error}", err=True)
            raise typer.Exit(1) from None
