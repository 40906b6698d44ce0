"""`billing feed status|ls|requeue|enable|secret`: notifications to the customer's application (behaviours.md F3)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.outbox_rows import OutboxCommand
from ops.commands.terminal import Column, fail, say, say_json, settings_and_config, show_rows
from ops.commands.times import minute_text
from ops.runtime.exit_codes import ExitCode
from schemas.feed_secrets import new_secret
from sinks.feed import receivers
from sinks.feed.notifications import Notifications
from sinks.postgres.audit_log import record

app = typer.Typer(
    help="Show the receivers of notifications, list and requeue notifications, and enable a disabled receiver.",
    no_args_is_help=True,
)

NOTIFICATIONS = OutboxCommand(
    claims=Notifications,
    noun="notification",
    columns=(
        Column("key"),
        Column("type"),
        Column("customer"),
        Column("version", right=True, whole=True),
        Column("status"),
        Column("tries", right=True),
        Column("queued", whole=True),
        Column("last error"),
    ),
    cells=lambda row: (
        row["notification_key"],
        row["type"],
        row["customer_id"],
        row["version"],
        row["status"],
        row["attempts"],
        minute_text(row["queued_at"]),
        row["last_error"],
    ),
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


class NotificationStatus(StrEnum):
    """Statuses of a notification that `ls` can filter by."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    WITHHELD = "withheld"


@app.command("status")
def status(as_json: _Json = False) -> None:
    """Show each destination of the config: what waits, what failed, since when it fails, whether it is disabled.

    Example: billing feed status

    Exits 0 if no destination fails, 1 if one fails or is disabled, 2 if a setting is invalid, 3 if Postgres does not
    answer.
    """
    _, config = settings_and_config("feed status")

    async def work(notifications: Notifications) -> dict[str, receivers.ReceiverState]:
        async with notifications.connection() as connection:
            return {state.destination: state for state in await receivers.states(connection)}

    found = NOTIFICATIONS.ask("feed status", work)
    named = config.feed.names
    states = [found.get(name) or receivers.ReceiverState(name, None, None, None, 0, 0) for name in named]
    states += [state for name, state in found.items() if name not in named and (state.queued or state.failed)]
    if as_json:
        for state in states:
            say_json({name: getattr(state, name) for name in state.__slots__} | {"state": _word(state, named)})
    elif not states:
        say("the config has no feed: docs/feed.md")
    else:
        show_rows(
            (
                Column("destination"),
                Column("state", whole=True),
                Column("queued", right=True),
                Column("failed", right=True),
                Column("failing since", whole=True),
                Column("reason"),
            ),
            [
                (
                    state.destination,
                    _word(state, named),
                    state.queued,
                    state.failed,
                    minute_text(state.failing_since) if state.failing_since else None,
                    state.reason,
                )
                for state in states
            ],
        )
    if any(state.failing_since is not None for state in states):
        raise typer.Exit(ExitCode.NO)


@app.command("ls")
def ls(
    status: Annotated[
        NotificationStatus, typer.Option(help="Only notifications with this status.")
    ] = NotificationStatus.FAILED,
    every: Annotated[bool, typer.Option("--all", help="Notifications with any status.")] = False,
    type_: Annotated[str | None, typer.Option("--type", help="Only notifications of this type.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only notifications about this customer (cus_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 100,
    as_json: _Json = False,
) -> None:
    """List notifications, newest first. By default only failed ones.

    Example: billing feed ls --all --customer cus_123
    """
    wanted = None if every else status.value
    rows, total = NOTIFICATIONS.ask(
        "feed ls", lambda feed: feed.listed(status=wanted, kind=type_, customer_id=customer, limit=limit)
    )
    NOTIFICATIONS.show(rows, total, wanted=wanted, as_json=as_json)


@app.command("requeue")
def requeue(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys, as listed by `billing feed ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed ones, oldest first, up to --limit.")] = False,
    type_: Annotated[str | None, typer.Option("--type", help="With --all: only notifications of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Send failed notifications again, for three more days, with the same `webhook-id` and version.

    Example: billing feed requeue --all

    Exits 1 if a given key does not belong to a failed notification.
    """
    NOTIFICATIONS.change(
        "feed requeue",
        keys,
        every,
        lambda feed, chosen, entry: feed.requeue(keys=chosen, kind=type_, limit=limit, entry=entry),
        type=type_,
        limit=limit,
    )


@app.command("enable")
def enable(destination: Annotated[str, typer.Argument(help="The destination's name in the config.")]) -> None:
    """Send to a disabled destination again. What was queued meanwhile is sent; requeue what has failed.

    Example: billing feed enable app

    Exits 1 if it is not disabled, 3 if Postgres does not answer.
    """

    async def work(notifications: Notifications) -> bool:
        async with notifications.connection() as connection, connection.transaction():
            is_enabled = await receivers.enable(connection, destination)
            if is_enabled:
                await record(connection, entry_for("feed enable", target=destination))
            return is_enabled

    if not NOTIFICATIONS.ask("feed enable", work):
        fail("feed enable", f"{destination} is not disabled: billing feed status lists the destinations")
    say(f"{destination} is enabled")


@app.command("secret")
def secret() -> None:
    """Print a new random secret for a destination and its receiver.

    Example: billing feed secret
    """
    say(new_secret())


def _word(state: receivers.ReceiverState, named: list[str]) -> str:
    if state.destination not in named:
        return "not in the config"
    if state.disabled_at is not None:
        return "disabled"
    return "failing" if state.failing_since is not None else "ok"
