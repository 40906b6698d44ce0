"""`billing dispatcher`: the process that delivers mails, Stripe calls, exports and notifications."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.shadow import turn_on
from ops.commands.terminal import settings_and_config
from ops.processes.dispatcher import feed_receivers, mail_parts, run, stripe_parts
from ops.processes.skeleton import run_process
from sinks.exports.storage import check_exports


def dispatcher(
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Turn shadow mode on first: nothing leaves the system.")
    ] = False,
) -> None:
    """Send queued e-mails and notifications, write and delete exports, and make queued calls to Stripe.

    Calls are made only if BILLING_STRIPE_API_KEY is set.

    Example: billing dispatcher

    In shadow mode (`billing shadow`), with or without --shadow, it holds what it would deliver, and makes only calls
    that read. --shadow turns the mode on in the database, for all processes, until `billing shadow end`.

    Several dispatchers may run at once. On SIGTERM it finishes its claimed rows and exits 0. Exits 1 if the ops port is
    in use, 2 if a setting is invalid, 70 if it is stuck.
    """
    settings, config = settings_and_config("dispatcher")
    if shadow:
        turn_on("dispatcher", settings)

    async def main() -> None:
        server, composer = mail_parts(settings, config)
        stripe_parts(settings, config)
        feed_receivers(config)
        check_exports(settings)
        await run(settings, config, server, composer)

    raise typer.Exit(run_process("dispatcher", main))
