"""`billing shadow begin|report|end`: run beside an old handler, compare, and switch (behaviours.md F2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.commands.accounts import is_account
from ops.commands.acting import entry_for
from ops.commands.terminal import (
    Column,
    database_or_exit,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_pairs,
    show_rows,
)
from ops.commands.times import minute_text, moment_of
from ops.runtime.exit_codes import ExitCode
from recovery.shadow import switch
from recovery.shadow.comparison import FIELDS, KEYS, Mapped, ShadowComparison, compare
from recovery.shadow.sources import SourceUnreadable, of_csv, of_table
from recovery.shadow.switch import Held, NotInShadow
from schemas.database_settings import DatabaseSettings
from schemas.timing import utc_now
from sinks.postgres.outboxes import BY_TABLE

app = typer.Typer(
    help="Run the whole system beside an old handler without sending anything, compare, and switch.",
    no_args_is_help=True,
)
NAMES = {outbox.command: outbox.name for outbox in BY_TABLE.values()}


@app.command("begin")
def begin() -> None:
    """Turn shadow mode on: everything is applied, and nothing leaves the system. Affects all processes at once.

    Example: billing shadow begin

    Mails, notifications, export archives and changing calls to Stripe are kept as withheld. Calls that only read are
    made. Safe to run again. `billing migrate --shadow` turns it on together with the tables.
    """
    is_new = turn_on("shadow begin", database_or_exit("shadow begin"))
    say("shadow mode is on: nothing leaves the system" if is_new else "shadow mode was on already")


def turn_on(command: str, settings: DatabaseSettings) -> bool:
    """Turn shadow mode on for `command`. Returns False if it was on. Exits 3 if Postgres does not answer."""
    return run_or_exit(command, lambda: switch.begin(settings.database_url, entry_for("shadow begin")))


@app.command("report")
def report(
    since: Annotated[str, typer.Option(help="What was queued since: 24h (ago), or ISO 8601. Default: the begin.")] = "",
    rows: Annotated[
        list[str] | None, typer.Option("--list", help=f"Also list the newest rows: {', '.join(NAMES)}. Repeatable.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare the state with this CSV file of the old system.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--against-table", help="Compare with this table; see BILLING_OLD_DATABASE_URL.")
    ] = None,
    key: Annotated[
        str, typer.Option(help=f"What a row is, and its column there: KEY or KEY=COLUMN. Keys: {', '.join(KEYS)}.")
    ] = "customer_id",
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Compare: OURS or OURS=THEIRS. Repeatable.")
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option("--value", help="A value of theirs that means ours: OURS:THEIRS=VALUE.")
    ] = None,
    account: Annotated[str, typer.Option(help="A connected account instead of your own.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many rows and differences.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what would have left the system, and where its state differs from the old system's table.

    Example: billing shadow report --list mail
             billing shadow report --against old.csv --key customer_id=stripe_id --column plan=tier --value plan:PRO=pro

    The columns to compare are those of the key: --key subscription_id compares subscriptions, the other keys customers
    and their access. Times may be ISO 8601 or seconds. --against-table reads from the database of
    BILLING_OLD_DATABASE_URL, by default from this system's.

    Exits 0 if nothing differs, 1 if something differs or shadow mode was never on, 2 if an option is invalid, 3 if
    Postgres does not answer.
    """
    command = "shadow report"
    try:
        begin_at = moment_of(since, utc_now()) if since else None
        mapped = mapping_of(key, columns or [], values or [], account)
        listed = tuple(NAMES[name] for name in rows or ())
    except KeyError as error:
        refuse(command, f"--list {error.args[0]}: one of {', '.join(NAMES)}")
    except ValueError as error:
        refuse(command, error)
    if against is not None and table is not None:
        refuse(command, "--against or --against-table, not both")
    is_compared = against is not None or table is not None
    if is_compared and not mapped.columns:
        refuse(command, f"--column: name what to compare; {mapped.key} has {', '.join(FIELDS[mapped.key])}")
    settings = database_or_exit(command)

    async def work() -> tuple[Held, ShadowComparison | None]:
        found = await switch.held(settings.database_url, begin_at, outboxes=listed, limit=limit)
        if not is_compared:
            return found, None
        old = settings.old_database_url or settings.database_url
        source = of_csv(against, mapped.wanted) if against is not None else of_table(old, table or "", mapped.wanted)
        return found, await compare(settings.database_url, source, mapped, most=limit)

    held, compared = run_or_exit(command, work, no=(NotInShadow, SourceUnreadable))
    if as_json:
        say_json(_plain(held, compared))
    else:
        _show_held(held)
        if compared is not None:
            _show_compared(compared)
    if compared is not None and compared.differing:
        raise typer.Exit(ExitCode.NO)


@app.command("end")
def end(
    keep: Annotated[bool, typer.Option("--keep", help="What was held never leaves: the old handler did it.")] = False,
    release_since: Annotated[
        str, typer.Option(help="What was queued since then leaves now: 15m (ago), or ISO 8601. The rest never does.")
    ] = "",
) -> None:
    """Turn shadow mode off. What is queued from now on leaves. Say what happens with what was held.

    Example: billing shadow end --keep
             billing shadow end --release-since 15m     (when the old handler was switched off)

    A mail that is released is checked again before it leaves, as any other. A single row that was kept leaves with
    `billing mail|calls|feed requeue KEY`.

    If a release is interrupted, run it again with the time that it has printed: the rest leaves.

    Exits 1 if shadow mode is off (or, for a release, never was on), 2 if an option is invalid, 3 if Postgres does not
    answer.
    """
    command = "shadow end"
    if keep == bool(release_since):
        refuse(command, "give --keep or --release-since: what happens with what was held")
    try:
        begin_at = moment_of(release_since, utc_now()) if release_since else None
    except ValueError as error:
        refuse(command, error)
    settings = database_or_exit(command)
    entry = entry_for(command, filter={"keep": keep, "release_since": release_since})
    if begin_at is not None:
        say(f"releasing what was queued since {begin_at.isoformat(timespec='seconds')}")
    period, released = run_or_exit(
        command, lambda: switch.end(settings.database_url, begin_at, entry), no=(NotInShadow,)
    )
    say(f"shadow mode is off; it was on since {minute_text(period.began_at)}")
    if begin_at is not None:
        show_pairs({name: f"{count} released" for name, count in sorted(released.items())} or {"released": "nothing"})


def mapping_of(key: str, columns: Sequence[str], values: Sequence[str], account: str) -> Mapped:
    """Read the options of a comparison. Raises ValueError with a message for the user."""
    name, _, key_column = key.partition("=")
    if name not in KEYS:
        raise ValueError(f"--key {name}: one of {', '.join(KEYS)}")
    if account and not is_account(account):
        raise ValueError(f"--account {account}: not the id of an account")
    chosen: dict[str, str] = {}
    for column in columns:
        ours, _, theirs = column.partition("=")
        if ours not in FIELDS[name]:
            raise ValueError(f"--column {ours}: {name} has {', '.join(FIELDS[name])}")
        chosen[ours] = theirs or ours
    renamed: dict[str, dict[str, str]] = {}
    for value in values:
        ours, colon, rest = value.partition(":")
        theirs, equals, meaning = rest.partition("=")
        if not colon or not equals or ours not in chosen:
            raise ValueError(f"--value {value}: write OURS:THEIRS=VALUE for a compared column")
        renamed.setdefault(ours, {})[theirs] = meaning
    return Mapped(key=name, key_column=key_column or name, columns=chosen, renamed=renamed, account=account)


def _show_held(held: Held) -> None:
    ended_at = held.period.ended_at
    state = "on" if ended_at is None else f"off since {minute_text(ended_at)}"
    say(f"shadow mode is {state}; it began {minute_text(held.period.began_at)}")
    say(f"queued since {minute_text(held.since)} and not sent:")
    names = (
        Column("outbox"),
        Column("kind"),
        Column("rows", right=True),
        Column("first", whole=True),
        Column("last", whole=True),
    )
    show_rows(
        names,
        [(one["outbox"], one["kind"], one["count"], _at(one["first"]), _at(one["last"])) for one in held.counts],
    )
    for name, rows in held.rows.items():
        say()
        if rows:
            show_rows(
                [Column(str(column)) for column in rows[0]],
                [list(map(_cell, row.values())) for row in rows],
                title=name,
            )


def _show_compared(compared: ShadowComparison) -> None:
    say()
    more = {"without a key": compared.without_key, "repeated keys": compared.repeated}
    counts = {
        "compared": compared.rows,
        "same": compared.same,
        **{name: count for name, count in more.items() if count},
    }
    show_pairs({**counts, **dict(compared.by_field.most_common())})
    rows = [
        (one.key, name, old, ours)
        for one in compared.differences
        for name, (old, ours) in (one.fields or {f"missing in {one.missing}": [None, None]}).items()
    ]
    if rows:
        show_rows([Column(name) for name in ("key", "column", "old system", "this system")], rows, title="differences")
    say_cut(len(compared.differences), compared.differing, as_json=False)
    say("the states agree" if not compared.differing else f"{compared.differing} rows differ")


def _plain(held: Held, compared: ShadowComparison | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "is_on": held.period.is_on,
        "began_at": held.period.began_at,
        "ended_at": held.period.ended_at,
        "since": held.since,
        "held": held.counts,
        "rows": held.rows,
    }
    if compared is not None:
        found["compared"] = {
            "rows": compared.rows,
            "same": compared.same,
            "differing": compared.differing,
            "without_key": compared.without_key,
            "repeated": compared.repeated,
            "by_field": dict(compared.by_field),
            "differences": [asdict(one) for one in compared.differences],
        }
    return found


def _at(moment: datetime) -> str:
    return minute_text(moment)


def _cell(value: object) -> object:
    return _at(value) if isinstance(value, datetime) else value
