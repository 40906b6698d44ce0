"""`billing rebuild`: applies the whole log to an empty database, for comparison with the live one."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

import orjson
import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import exits, progress, refuse, run_or_exit, say, say_json, settings_and_config
from ops.commands.times import moment_of
from recovery.rebuild import runs
from recovery.rebuild.rebuild import Rebuilt, run, target_of
from sinks.postgres.audited import recorded


def rebuild(
    into: Annotated[
        str,
        typer.Option(
            envvar="BILLING_REBUILD_URL",
            metavar="DSN",
            help="An empty database. Put a password into the variable: other users can read the command line.",
        ),
    ],
    until: Annotated[str, typer.Option(help="Only records before this time: 24h (ago), or ISO 8601 in UTC.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply the whole log to an empty database with the rules of this version. Then run `billing diff`.

    Example: createdb rehearsal && billing rebuild --into postgresql://billing@127.0.0.1/rehearsal

    It sends nothing: mails, calls and exports get the status `suppressed`, timers do not fire, and dead letters are not
    published again. It reports records that retention has removed.

    Exits 1 if the database is not empty, 2 if a setting is invalid, 3 if Kafka or a database does not answer.
    """
    settings, config = settings_and_config("rebuild")
    with exits("rebuild"):
        target = target_of(into, settings)
    try:
        moment = moment_of(until, datetime.now(UTC)) if until else None
    except ValueError as error:
        refuse("rebuild", error)

    entry = entry_for("rebuild", target=urlsplit(target.get_secret_value()).path.lstrip("/"), filter={"until": until})

    async def work() -> Rebuilt:
        with progress("records") as bar:
            async with recorded(settings.database_url, entry) as noted:
                rebuilt = await run(settings, config, target, until=moment, say=bar)
                noted.count = rebuilt.records
            return rebuilt

    _show(run_or_exit("rebuild", work, no=(runs.NotEmpty,)), as_json=as_json)


def _show(rebuilt: Rebuilt, *, as_json: bool) -> None:
    if as_json:
        found = asdict(rebuilt) | {"removed": rebuilt.removed}
        say_json(found, option=orjson.OPT_NON_STR_KEYS)
        return
    rate = rebuilt.records / rebuilt.seconds if rebuilt.seconds else 0.0
    say(f"{rebuilt.records} records of {rebuilt.topic} in {rebuilt.seconds:.1f} s ({rate:.0f}/s)")
    for outcome, count in sorted(rebuilt.outcomes.items()):
        say(f"  {outcome:<10} {count}")
    if not rebuilt.removed:
        say("complete: retention has removed no records")
    for partition, count in rebuilt.removed.items():
        say(f"partition {partition}: retention has removed the first {count} offsets")
