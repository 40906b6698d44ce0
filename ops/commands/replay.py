"""`billing replay …`: any event onto the log again, from wherever it is kept (behaviours.md D6).

dead: its letter ─▶ else the ledger's payload ─▶ else the log itself ─▶ else Stripe, which keeps events for 30 days
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import orjson
import typer

from eventlog.append import Entry, EventLog
from eventlog.lookup import LogReader, headers_of
from ops.commands.dead import EXIT_INCOMPLETE, EXIT_UNAVAILABLE, printable, rate_of, replay_letters, replay_matching
from ops.commands.terminal import EXIT_INVALID_SETTINGS, operator
from ops.commands.times import moment_of
from recovery.replay.letters import Rate, kept_entry, replay_headers
from schemas.errors import BillingError
from schemas.ordering import account_of, ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import InvalidSettings, Settings, load_settings
from sinks.postgres.dead_letter_index import KeptEvent, LetterFilter, Letters
from sinks.stripe_api.api import ApiTrouble, Refusal, Request, StripeApi
from sinks.stripe_api.key import parse_base, parse_key

FAILED_WITHIN = timedelta(hours=24)
FAILED_AT_MOST = 100
"""The seeds' retry: what FAILED in the last 24 hours, at most 100."""

_SETTLED = ("applied", "ignored", "stale")


class From(StrEnum):
    """Where an event may be taken from."""

    AUTO = "auto"
    LEDGER = "ledger"
    LOG = "log"
    STRIPE = "stripe"


class NotAtStripe(Exception):
    """Stripe does not give it; the message is one line."""


@dataclass(slots=True)
class Replayed:
    """Where each event was taken from, what was left alone, what nobody has; by event id."""

    replayed: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    """Not appended, with its outcome: the ledger would drop it."""
    missing: dict[str, str] = field(default_factory=dict)
    """With the reason."""


def failed_filter(now: datetime) -> LetterFilter:
    """What first failed within the last 24 hours and is open: what keeps dying is left alone after a day."""
    return LetterFilter(statuses=("open",), born_since=now - FAILED_WITHIN, limit=FAILED_AT_MOST)


def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="Events (evt_…).")] = None,
    since: Annotated[
        str | None, typer.Option(help="What waits or died, received since: 24h (ago), 7d, 2026-03-01T12:00.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="And before; written as --since.")] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="And of this type. Repeat for more.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="What failed within the last 24 hours, at most 100 events.")
    ] = False,
    source: Annotated[From, typer.Option("--from", help="Take it only from there.")] = From.AUTO,
    account: Annotated[str, typer.Option(help="With Stripe: the connected account it belongs to.")] = "",
    rate: Annotated[str | None, typer.Option(help="At most so many a second: 20/s.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="With --since, --until, --type.")] = 1000,
    by: Annotated[str | None, typer.Option(help="Who did it; by default the user of this system.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Append stored events to the log again, with source=replay and their own key.

    Example: billing replay evt_1NG8Du2eZvKYlo2CUI79vXWy
             billing replay --failed
             billing replay --since 7d --type invoice.paid --dry-run

    What is settled is left alone: the ledger would drop it. Exits 1 if an event is found nowhere.
    """
    settings = _settings()
    chosen = bool(since or until or types)
    if [bool(ids), chosen, failed].count(True) != 1:
        _refuse("name events, or say --since/--until/--type, or --failed")
    if failed:
        wanted = failed_filter(datetime.now(UTC))
        replay_matching(settings, wanted, rate=rate, by=by, dry_run=dry_run, as_json=as_json)
        return
    pace = rate_of(rate)
    try:
        now = datetime.now(UTC)
        window = (moment_of(since, now) if since else None, moment_of(until, now) if until else None)
    except ValueError as problem:
        _refuse(str(problem))

    async def go() -> Replayed:
        async with Letters.open(settings.database_url) as letters:
            names = list(dict.fromkeys(ids or ()))
            if not names:
                events = await letters.unsettled_events(
                    since=window[0], until=window[1], types=types or (), limit=limit
                )
                names = [event.event_id for event in events]
            return await EventReplay(settings, letters, source, account, by or operator()).run(names, pace, dry_run)

    try:
        report = asyncio.run(go())
    except InvalidSettings as error:
        _refuse(str(error))
    except BillingError as error:
        typer.echo(f"billing replay: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    _say(report, dry_run, as_json)
    if report.missing:
        raise typer.Exit(EXIT_INCOMPLETE)


@dataclass(frozen=True, slots=True)
class EventReplay:
    """Finds events and appends them: dead ones by their letters, in those' order, then the others in the log's."""

    settings: Settings
    letters: Letters
    source: From
    account: str
    by: str

    async def run(self, names: list[str], rate: Rate, dry_run: bool) -> Replayed:
        """Raises StoreUnavailable, LogUnavailable, ReplayUnderWay, InvalidSettings."""
        report = Replayed()
        kept = await self.letters.kept_events(names)
        report.settled = {name: event.outcome for name, event in kept.items() if event.outcome in _SETTLED}
        left = [*(name for name in kept if name not in report.settled), *(name for name in names if name not in kept)]
        if self.source is From.AUTO and left:
            await self._letters(left, report, rate, dry_run)
        entries: dict[str, Entry] = {}
        if self.source in (From.AUTO, From.LEDGER):
            self._take(report, entries, "ledger", _from_ledger(kept, _open(left, report, entries)))
        if self.source in (From.AUTO, From.LOG) and (wanted := _open(left, report, entries)):
            self._take(report, entries, "log", await asyncio.to_thread(self._from_log, wanted))
        if wanted := _open(left, report, entries):
            await self._from_stripe(wanted, report, entries)
        if not dry_run:
            await self._append([entries[name] for name in left if name in entries], rate)
        return report

    async def _letters(self, names: list[str], report: Replayed, rate: Rate, dry_run: bool) -> None:
        found = await self.letters.find(LetterFilter(ids=tuple(names), statuses=("open",), limit=len(names) * 100))
        if found and not dry_run:
            done = await replay_letters(self.settings, self.letters, found, rate, self.by)
            found = [letter for letter in found if letter.event_id not in done.gone]
        report.replayed |= {letter.event_id: "dead letter" for letter in found if letter.event_id}

    def _from_log(self, names: list[str]) -> dict[str, Entry]:
        with LogReader(self.settings.kafka_bootstrap, self.settings.events_topic) as log:
            found = log.find(names)
        return {
            name: Entry(message.key(), value, replay_headers(headers_of(message), ""))
            for name, message in found.items()
            if (value := message.value()) is not None
        }

    async def _from_stripe(self, names: list[str], report: Replayed, entries: dict[str, Entry]) -> None:
        if self.source not in (From.AUTO, From.STRIPE):
            report.missing |= dict.fromkeys(names, f"not in the {self.source}")
            return
        if self.settings.stripe_api_key is None:
            if self.source is From.STRIPE:
                raise InvalidSettings("BILLING_STRIPE_API_KEY is not set")
            report.missing |= dict.fromkeys(
                names, "neither here nor on the log; no BILLING_STRIPE_API_KEY to ask Stripe"
            )
            return
        api = StripeApi(parse_key(self.settings.stripe_api_key), parse_base(self.settings.stripe_api_base))
        try:
            for name in names:
                try:
                    self._take(report, entries, "stripe", {name: await stripe_entry(api, name, self.account)})
                except NotAtStripe as error:
                    report.missing[name] = str(error)
        finally:
            await api.close()

    def _take(self, report: Replayed, entries: dict[str, Entry], where: str, found: dict[str, Entry]) -> None:
        entries |= found
        report.replayed |= dict.fromkeys(found, where)

    async def _append(self, entries: list[Entry], rate: Rate) -> None:
        if not entries:
            return
        log = EventLog(self.settings.kafka_bootstrap, self.settings.events_topic, client_id="billing-replay")
        try:
            for at in range(0, len(entries), rate.chunk):
                chunk = entries[at : at + rate.chunk]
                await rate.wait(len(chunk))
                await log.append(chunk)
        finally:
            log.close()


async def stripe_entry(api: StripeApi, event_id: str, account: str) -> Entry:
    """The event as Stripe has it today, as a record: the same content in other bytes. Raises NotAtStripe."""
    if not (event_id.isascii() and event_id.replace("_", "").isalnum()):
        raise NotAtStripe("not an id of Stripe's")
    try:
        answer = await api.call(Request(method="GET", path=f"/v1/events/{event_id}", account=account))
    except Refusal as error:
        kept = "; Stripe keeps events for 30 days" if error.status == 404 else ""
        raise NotAtStripe(f"Stripe: {error}{kept}") from None
    except ApiTrouble as error:
        raise NotAtStripe(f"Stripe does not answer: {error}") from None
    event, text = answer.body, answer.text
    if event.get("object") != "event" or event.get("id") != event_id or not isinstance(event.get("type"), str):
        raise NotAtStripe("Stripe answered with something that is not this event")
    if event.get("livemode") is not api.mode.livemode:
        raise NotAtStripe(f"it is not of {api.mode} mode, as BILLING_STRIPE_API_KEY is")
    if account and account_of(event) != account:
        # Asked in its own name, an account is not told its name; as a webhook the event has it.
        event = {**event, "account": account}
        text = orjson.dumps(event).decode()
    version = event.get("api_version")
    headers = RecordHeaders(
        event_id=event_id,
        type=event["type"],
        source=Source.REPLAY,
        account=account_of(event) or "",
        livemode=api.mode.livemode,
        api_version=version if isinstance(version, str) else "",
        endpoint="",
        received_at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    return Entry(ordering_key(event).encode(), text.encode(), headers.encode())


def _from_ledger(kept: dict[str, KeptEvent], names: list[str]) -> dict[str, Entry]:
    found = {name: kept_entry(kept[name]) for name in names if name in kept}
    return {name: entry for name, entry in found.items() if entry is not None}


def _open(names: list[str], report: Replayed, entries: dict[str, Entry]) -> list[str]:
    return [name for name in names if name not in entries and name not in report.replayed]


def _say(report: Replayed, dry_run: bool, as_json: bool) -> None:
    if as_json:
        result: dict[str, Any] = asdict(report) | {"dry_run": dry_run}
        typer.echo(orjson.dumps(result).decode())
        return
    for name, where in report.replayed.items():
        typer.echo(f"{printable(name)}: {'would be ' if dry_run else ''}replayed from its {where}")
    for name, outcome in report.settled.items():
        typer.echo(f"{printable(name)}: left alone, the ledger has it as {outcome}")
    for name, reason in report.missing.items():
        typer.echo(f"{printable(name)}: {printable(reason)}", err=True)
    if not (report.replayed or report.settled or report.missing):
        typer.echo("nothing to replay")


def _settings() -> Settings:
    try:
        return load_settings()
    except InvalidSettings as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"billing replay: {reason}", err=True)
    raise typer.Exit(EXIT_INVALID_SETTINGS) from None
