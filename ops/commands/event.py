"""`billing event` and `billing customer`: print everything that is stored about one event or one customer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ops.commands.amounts import amount_text
from ops.commands.find import hits_of, show_hits
from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
    note,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_pairs,
    show_rows,
)
from ops.commands.times import moment_of, second_text
from ops.runtime.printable import to_json
from recovery.archived import archived_payload
from schemas.command_line import command
from schemas.database_settings import DatabaseSettings
from schemas.payloads import ArchiveAway
from schemas.timer import RETRY
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import queries
from sinks.postgres.lists.past import not_shown, undone
from sinks.postgres.lists.samples import MOST_CHANGES, changes_kept_since, changes_since, first_applied
from sinks.postgres.lists.stories import access_chain, not_done
from sinks.postgres.outboxes import OUTBOXES, can_be_requeued
from sinks.postgres.pool import reading

Found = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# The columns of the printed tables; --json contains every column.
_LINES = {"why": "access", "not_done": "not done", "next": "next"}
_APART = frozenset({"payload", "changes"})
_SHOWN = {
    "disputes": ("dispute_id", "status", "amount", "currency", "reason", "due_by"),
    "members": ("user_id", "role", "email"),
    "subscriptions": ("subscription_id", "status", "plan", "price_id", "current_period_end", "cancel_at_period_end"),
    "payments": (
        *("invoice_id", "checkout_session_id", "status", "amount", "refunded_amount", "currency", "on_hold"),
        *("paid_at", "failure_reason"),
    ),
    "payment_methods": ("payment_method_id", "brand", "last4", "exp_month", "exp_year", "detached_at"),
    "timers": ("kind", "subject", "due_at", "status"),
    "events": ("event_id", "type", "created", "outcome", "reason"),
    "dead_letters": (
        "event_id",
        "stage",
        "error_class",
        "message",
        "attempts",
        "last_failed_at",
        "status",
        "closed_by",
        "replay_of",
    ),
    **{outbox.name: outbox.shown for outbox in OUTBOXES},
    "unsubscribed": ("template", "at"),
    "erasures": ("asked_at", "erased_at", "kafka_until", "event_id"),
    "wrote": ("table", "key", "by"),
}


def event(event_id: Annotated[str, typer.Argument(metavar="ID", help="evt_…")], as_json: Json = False) -> None:
    """Show one event: its verdict, the rows and outbox entries it wrote, and what to do next.

    Example: billing event evt_1NG8Du2eZvKYlo2CUI79vXWy --json

    --json contains the payload, also one that billing prune has put into the archive (payload_place).

    Exits 1 if the event is not known, 2 if a setting is missing, 3 if the database does not answer.
    """
    settings = database_or_exit("event")

    async def ask() -> Found | None:
        async with reading(settings.database_url) as connection:
            found = await queries.event_overview(connection, event_id, settings.events_topic)
            if as_json and found is not None and found["event"] is not None and found["event"]["payload"] is None:
                archive = PayloadArchive(settings.payloads_url)
                try:
                    found["event"]["payload"] = await archived_payload(connection, archive, found["event"])
                except ArchiveAway as error:
                    note(str(error))
            return found

    found = run_or_exit("event", ask)
    if found is None:
        again = command("replay", event_id)
        fail("event", f"event {event_id} is not known; {again} looks for it on the log and at Stripe")
    _show(found | {"not_done": not_done(found), "next": next_commands(event_id, found)}, as_json)


def customer(
    named: Annotated[str, typer.Argument(metavar="ID", help="cus_…, any other id of theirs, an address, or a name.")],
    account: Annotated[str, typer.Option(help="The customer's connected account. Default: your own account.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many rows of each kind.")] = queries.MOST,
    at: Annotated[
        str | None,
        typer.Option("--at", help="The state at a past moment: 24h (ago), 7d, 2026-03-01T12:00 (UTC)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one customer: why they have access or not, state, payments, timers, e-mails and latest events.

    Example: billing customer cus_NffrFeUfNV2Hib --json
             billing customer jane@example.com
             billing customer cus_NffrFeUfNV2Hib --at 7d

    Exits 1 if no customer or several are found (they are listed), 2 if a setting is missing, 3 if the database does
    not answer.
    """
    settings = database_or_exit("customer")

    async def ask(account: str, customer_id: str) -> Found | None:
        async with reading(settings.database_url) as connection:
            return await queries.customer_overview(connection, account, customer_id, limit=limit)

    found = run_or_exit("customer", lambda: ask(account, named))
    if found is None:
        place = _only_customer(settings, named, account)
        found = run_or_exit("customer", lambda: ask(*place))
    if found is None:
        fail("customer", f"customer {named} is not known" + (f" in account {account}" if account else ""))
    if at is not None:
        _show_past(settings, found, at, as_json=as_json)
        return
    why = access_chain(found, amount_text)
    shown = {"why": [asdict(fact) for fact in why] if as_json else [fact.text for fact in why], **found}
    _show(shown | {"next": _next_of_customer(found)}, as_json)


def _show_past(settings: DatabaseSettings, found: Found, at: str, *, as_json: bool) -> None:
    """Print the rows of the customer as they were, from today's rows and the changes of later events."""
    try:
        moment = moment_of(at, datetime.now(UTC))
    except ValueError as problem:
        refuse("customer", problem)
    row = next(part for name in ("customer", "organization") if (part := found[name]) is not None)

    async def ask() -> tuple[dict[str, dict[str, Found]], list[Found], datetime | None, datetime | None]:
        of = row["account"], row["customer_id"]
        async with reading(settings.database_url) as connection:
            return (
                await queries.customer_state(connection, *of),
                await changes_since(connection, *of, moment),
                await changes_kept_since(connection, *of),
                await first_applied(connection, *of),
            )

    present, changes, kept_since, first_at = run_or_exit("customer", ask, no=(queries.TooManyRows,))
    if len(changes) == MOST_CHANGES:
        fail("customer", f"over {MOST_CHANGES} events have changed this customer since then: choose a later moment")
    state, hidden = undone(present, changes), not_shown(present, changes)
    if as_json:
        shown_state = {"at": moment, "undone": len(changes), "kept_since": kept_since, "not_shown": hidden}
        say_json(shown_state | {"state": state})
        return
    say(f"at {second_text(moment)}, before {len(changes)} later event{'' if len(changes) == 1 else 's'}")
    if hidden:
        note(f"later events also changed {', '.join(hidden)}, which are not shown here")
    if kept_since is not None and moment < kept_since:
        note(f"what events changed until {second_text(kept_since)} is not kept: those changes are not undone")
    if not state:
        first = f": the first event was applied here at {second_text(first_at)}" if first_at is not None else ""
        say(f"nothing of this customer was stored then{first}")
    for table, rows in state.items():
        for key, fields in rows.items():
            say()
            shown = {name: _cell(value) for name, value in fields.items() if not name.endswith("version")}
            show_pairs(shown, title=f"{table} {key}")


def _only_customer(settings: DatabaseSettings, named: str, account: str) -> tuple[str, str]:
    """Return the account and id of the one customer to whom this leads. Exits 1 if there is none or several."""
    hits = [hit for hit in hits_of("customer", settings, named) if hit.customer_id]
    if account:
        hits = [hit for hit in hits if hit.account == account]
    found = {(hit.account, str(hit.customer_id)) for hit in hits}
    if not found:
        fail("customer", f"customer {named} is not known" + (f" in account {account}" if account else ""))
    if len(found) > 1:
        show_hits(hits)
        fail("customer", f"{named} leads to {len(found)} customers")
    return found.pop()


def _next_of_customer(found: Found) -> list[str]:
    """Return what to do about prices that no plan names."""
    living = [one for one in found["subscriptions"] if one["status"] not in ("canceled", "incomplete_expired")]
    prices = {one["price_id"] for one in living if one["plan"] is None and one["price_id"] is not None}
    return [
        f"no plan has {price}: add it to a plan in the config, restart the workers, then billing plans apply"
        for price in sorted(prices)
    ]


def next_commands(event_id: str, found: Found) -> list[str]:
    """Return the commands to run next: one for each failed, dead or waiting item."""
    row, letters = found["event"], found["dead_letters"]
    lines = [
        command(f"{outbox.command} requeue", queued[outbox.key])
        for outbox in OUTBOXES
        for queued in found[outbox.name]
        if can_be_requeued(queued)
    ]
    if any(letter["status"] == "open" for letter in letters):
        lines += [command("dead show", event_id), command("dead replay", id=event_id)]
    elif row is not None and row["outcome"] == "dead":
        lines.append(command("dead replay --again", id=event_id) if letters else command("replay", event_id))
    if row is not None and row["outcome"] == "waiting":
        due = [timer["due_at"] for timer in found["timers"] if timer["kind"] == RETRY and timer["status"] == "pending"]
        when = f" before {second_text(due[0])}, when it is retried automatically" if due else ""
        lines.append(f"{command('replay', event_id)}   # to retry it{when}")
    return lines


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        say_json(found)
        return
    totals = found.get("totals", {})
    for name, part in found.items():
        if name == "totals" or not part:
            continue
        if name in _LINES:
            for line in part:
                say(f"{_LINES[name]}: {line}")
            if name == "why":
                say()
            continue
        title = name.replace("_", " ")
        if isinstance(part, Mapping):
            show_pairs({key: _cell(value) for key, value in part.items() if key not in _APART}, title=title)
            if part.get("changes"):
                say()
                _show_changes(part["changes"])
        else:
            columns = [Column(key, whole=key.endswith(("_at", "created", "_end"))) for key in _SHOWN[name]]
            show_rows(columns, [[_cell(row[key]) for key in _SHOWN[name]] for row in part], title=title)
            say_cut(len(part), totals.get(name, 0), as_json=False)
        say()


def _show_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    """Print each row that the event wrote, and its fields before and after."""
    say("changed")
    for change in changes:
        say(f"  {change['table']} {change['key']} {change['did']}")
        for name, (before, after) in change["fields"].items():
            say(
                f"    {name}: {_plain(before)} → {_plain(after)}"
                if change["did"] == "updated"
                else f"    {name}: {_plain(after if change['did'] == 'created' else before)}"
            )


def _plain(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else to_json(value)


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, dict):
        return to_json(value) if value else ""
    return value
