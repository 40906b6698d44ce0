"""The `billing` command line. The module of a command is imported only when that command is called.

Therefore a gateway never loads Faust, `billing --help` imports no command, and `billing event` starts fast.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from types import TracebackType
from typing import Annotated, NamedTuple

import typer


class CommandEntry(NamedTuple):
    """Where a command is, and the first sentence of its own help, for `billing --help`."""

    place: str
    help: str


# In the order of --help: run the whole system, single processes, set-up, queries, repairs.
COMMANDS = {
    "up": CommandEntry(
        "ops.commands.up:up",
        "Run the whole system on this machine: Kafka, Postgres, mailbox, gateway, workers, and all other processes.",
    ),
    "down": CommandEntry("ops.commands.up:down", "Stop the system that runs in this state directory."),
    "demo": CommandEntry(
        "ops.commands.demo:demo", "Start the whole system on this machine and send the signed events of a story to it."
    ),
    "gateway": CommandEntry(
        "ops.commands.gateway:gateway",
        "Receive Stripe's webhooks, verify their signatures, and append the events to the log.",
    ),
    "worker": CommandEntry(
        "ops.commands.worker:worker",
        "Apply events: read them from the log, decide by the rules, and write the results to Postgres.",
    ),
    "dispatcher": CommandEntry(
        "ops.commands.dispatcher:dispatcher",
        "Send queued e-mails and notifications, write and delete exports, and make queued calls to Stripe.",
    ),
    "scheduler": CommandEntry(
        "ops.commands.scheduler:scheduler", "Append due timers to the log: reminders, dunning steps, waiting events."
    ),
    "console": CommandEntry(
        "ops.commands.console:app",
        "Serve the operator's console: events, customers, failures and their repair, in a browser.",
    ),
    "analytics": CommandEntry(
        "ops.commands.analytics:app", "Keep the figures of MRR, payments and recoveries up to date."
    ),
    "doctor": CommandEntry(
        "ops.commands.doctor:doctor",
        "Check config, secrets, mails, schedules, Kafka, Postgres, the mail server and Stripe.",
    ),
    "config": CommandEntry("ops.commands.config:app", "Check the config and the environment."),
    "migrate": CommandEntry(
        "ops.commands.migrate:migrate", "Create or migrate the tables of the database for this version of the code."
    ),
    "adopt": CommandEntry("ops.commands.adopt:adopt", "Give the worker's consumer group to this database."),
    "topics": CommandEntry("ops.commands.topics:topics", "Create the topics, or check the existing ones."),
    "trigger": CommandEntry(
        "ops.commands.trigger:trigger", "Create a test event, sign it, and post it to the gateway."
    ),
    "simulate": CommandEntry(
        "ops.commands.simulate:simulate", "Simulate months of billing and post the events as Stripe does."
    ),
    "event": CommandEntry(
        "ops.commands.event:event",
        "Show one event: its verdict, the rows and outbox entries it wrote, and what to do next.",
    ),
    "customer": CommandEntry(
        "ops.commands.event:customer",
        "Show one customer: why they have access or not, state, payments, timers, e-mails and latest events.",
    ),
    "refusals": CommandEntry(
        "ops.commands.refusals:refusals",
        "Show the newest webhook requests that the gateway refused, with the reason and, if it was signed, the event.",
    ),
    "find": CommandEntry(
        "ops.commands.find:find",
        "Find what has this id, key, e-mail address, message id or place on the log, or a name that begins so.",
    ),
    "status": CommandEntry(
        "ops.commands.status:status", "Show what needs attention, the worst first, then the queues and the schedules."
    ),
    "mrr": CommandEntry(
        "ops.commands.mrr:mrr",
        "Show MRR and its movements, ARR, cohorts, usage, revenue at risk, recovery of failed payments, and payments.",
    ),
    "tap": CommandEntry("ops.commands.tap:tap", "Print the records of the log, one JSON object per line."),
    "contract": CommandEntry(
        "ops.commands.contract:contract",
        "Print the contract of the log's records as AsyncAPI, or check or write its files.",
    ),
    "reconcile": CommandEntry(
        "ops.commands.reconcile:reconcile", "Find events at Stripe that never arrived, and append them to the log."
    ),
    "import": CommandEntry(
        "ops.commands.import_:import_",
        "Import customers, default cards, subscriptions, invoices and disputes from Stripe, through the log.",
    ),
    "shadow": CommandEntry(
        "ops.commands.shadow:app",
        "Run the whole system beside an old handler without sending anything, compare, and switch.",
    ),
    "plugin": CommandEntry(
        "ops.commands.plugin:app",
        "List the plugins of the config, and test one.",
    ),
    "plans": CommandEntry(
        "ops.commands.plans:app",
        "Compare what customers have with the plans of the config, and bring a changed config to them.",
    ),
    "audit": CommandEntry(
        "ops.commands.audit:audit",
        "Compare events, subscriptions, payments, refunds and daily totals with Stripe.",
    ),
    "rebuild": CommandEntry(
        "ops.commands.rebuild:rebuild", "Apply the whole log to an empty database with the rules of this version."
    ),
    "diff": CommandEntry(
        "ops.commands.diff:diff",
        "Compare every row that is derived from the log with the database that `billing rebuild` filled.",
    ),
    "dead": CommandEntry("ops.commands.dead:app", "List, show, replay or discard dead letters."),
    "replay": CommandEntry(
        "ops.commands.replay:replay",
        "Append stored events to the log again, with their original key and source=replay.",
    ),
    "brake": CommandEntry(
        "ops.commands.brake:app", "List and release workers that stopped because too many events died."
    ),
    "mail": CommandEntry(
        "ops.commands.mail:app", "List the e-mails in the outbox, requeue failed ones, or preview the templates."
    ),
    "calls": CommandEntry("ops.commands.calls:app", "List the calls to Stripe's API, and requeue failed ones."),
    "feed": CommandEntry(
        "ops.commands.feed:app",
        "Show the receivers of notifications, list and requeue notifications, and enable a disabled receiver.",
    ),
    "exports": CommandEntry(
        "ops.commands.exports:app", "List the orders of export archives, requeue failed ones, and end links."
    ),
    "erase": CommandEntry("ops.commands.erase:erase", "Erase personal data at the request of the person."),
    "export": CommandEntry(
        "ops.commands.export:export",
        "Write everything that is stored on a person: a ZIP with JSON for programs and CSV for people.",
    ),
    "prune": CommandEntry(
        "ops.commands.prune:prune",
        "End what only grows: payloads of settled events, contents of settled mails, timers and calls, closed letters.",
    ),
    "bench": CommandEntry(
        "ops.commands.bench:bench",
        "Measure throughput and CPU cost of gateway and worker, compared with the limit of each component.",
    ),
}


def command_line(names: Iterable[str] = COMMANDS, *, imports: bool = True) -> typer.Typer:
    """Return the `billing` command with the named subcommands. Without `imports` they can only be listed."""
    app = typer.Typer(name="billing", no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def billing(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print version and commit.")
        ] = False,
    ) -> None:
        """Process Stripe webhooks through Kafka into Postgres and e-mail.

        No event is lost or applied twice, and the events of a customer are applied in order.
        """

    for name in names:
        module, _, attribute = COMMANDS[name].place.partition(":")
        command = getattr(import_module(module), attribute) if imports else _listed
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, help=None if imports else COMMANDS[name].help)(command)
    return app


def main() -> None:
    """Entry point of the `billing` script."""
    sys.excepthook = _print_bug
    named = sys.argv[1:2]
    if any(not _is_text(argument) for argument in sys.argv[1:]):
        # Ids and addresses go to Kafka, Postgres and hashes, and none of them takes such bytes.
        sys.stderr.write("billing: an argument is not UTF-8\n")
        sys.exit(2)
    if named and named[0] in COMMANDS:
        command_line(named)()
    # A shell that completes a command line needs the options of each command.
    command_line(imports=any(name.endswith("_COMPLETE") for name in os.environ))()


def _is_text(argument: str) -> bool:
    """Returns whether it is text: Python keeps bytes of the command line that are not UTF-8 as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _listed() -> None:
    raise RuntimeError("a listed command was called")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from ops.runtime.version import version_line

        typer.echo(version_line())
        raise typer.Exit


def _print_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error with its traceback, whose message may contain stored text."""
    from ops.runtime.printable import printable_lines

    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, trace))))


if __name__ == "__main__":
    main()
