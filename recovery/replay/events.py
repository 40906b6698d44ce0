"""Appends events to the log again, taken from dead letters, the ledger, the log or Stripe."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import orjson

from eventlog.append import EventAppender
from eventlog.entry import Entry, headers_of
from eventlog.lookup import RecordLookup
from recovery.replay.letters import (
    CHUNK,
    entry_of,
    kept_entry,
    letters_by_event,
    replay_headers,
    replay_letters,
)
from schemas.errors import BillingError
from schemas.ordering import account_of
from schemas.payloads import ArchiveAway
from schemas.rate import RateLimit
from schemas.record import Source
from schemas.settings import InvalidSettings, Settings
from schemas.verdict import SETTLED
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, KeptEvent, LetterFilter
from sinks.stripe_api.api import ApiTrouble, Refusal, Request, StripeApi
from sinks.stripe_api.key import parse_base, parse_key

FAILED_WITHIN = timedelta(hours=24)
"""The retry of failed events takes events that first failed within this time."""


FAILED_AT_MOST = 100
"""Maximum number of letters in one retry of failed events."""


class From(StrEnum):
    """The source from which events are taken; AUTO tries all of them."""

    AUTO = "auto"
    LEDGER = "ledger"
    LOG = "log"
    STRIPE = "stripe"


class NotAtStripe(BillingError):
    """Stripe does not return the event. The message is one line."""


@dataclass(slots=True)
class Replayed:
    """The result of a replay, by event id. `replayed` contains the source of each event."""

    replayed: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    """Events with a final outcome, and that outcome. They are not appended: the ledger would drop them."""
    missing: dict[str, str] = field(default_factory=dict)
    """Events found in no source, with the reason."""
    entries: list[Entry] = field(default_factory=list, repr=False)
    """In a dry run: what would be appended, in this order."""


def failed_filter(now: datetime) -> LetterFilter:
    """Select open letters of events that first failed within the last 24 hours.

    An event that keeps failing is therefore no longer retried after a day.
    """
    return LetterFilter(statuses=("open",), born_since=now - FAILED_WITHIN, limit=FAILED_AT_MOST)


@dataclass(frozen=True, slots=True)
class EventReplay:
    """Finds events and appends them: first dead events, in the order of their letters, then all others."""

    settings: Settings
    letters: DeadLetterIndex
    source: From
    account: str
    by: str

    async def run(self, names: list[str], rate: RateLimit, dry_run: bool) -> Replayed:
        """Replay the events with these ids.

        Raises StoreUnavailable, LogUnavailable, ReplayUnderWay, InvalidSettings.
        """
        report = Replayed()
        kept = await self.letters.kept_events(names)
        report.settled = {name: event.outcome for name, event in kept.items() if event.outcome in SETTLED}
        left = [*(name for name in kept if name not in report.settled), *(name for name in names if name not in kept)]
        if self.source is From.AUTO and left:
            await self._letters(left, report, rate, dry_run)
        entries: dict[str, Entry] = {}
        away: dict[str, str] = {}
        if self.source in (From.AUTO, From.LEDGER):
            self._take(report, entries, "ledger", _from_ledger(kept, _open(left, report, entries)))
            archived, away = await self._from_archive(kept, _open(left, report, entries))
            self._take(report, entries, "archive", archived)
        if self.source in (From.AUTO, From.LOG) and (wanted := _open(left, report, entries)):
            self._take(report, entries, "log", await asyncio.to_thread(self._from_log, wanted))
        if wanted := _open(left, report, entries):
            await self._from_stripe(wanted, report, entries)
        for name, reason in report.missing.items():
            if name in away:
                report.missing[name] = f"{reason}; {away[name]}"
            elif name in kept and (pruned_at := kept[name].payload_pruned_at) is not None:
                report.missing[name] = f"{reason}; payload pruned at {pruned_at:%Y-%m-%d %H:%M} UTC"
        chosen = [entries[name] for name in left if name in entries]
        if dry_run:
            report.entries += chosen
        else:
            await self._append(chosen, rate)
        return report

    async def _letters(self, names: list[str], report: Replayed, rate: RateLimit, dry_run: bool) -> None:
        found = await self.letters.find(LetterFilter(ids=tuple(names), statuses=("open",), limit=len(names) * 100))
        if found and not dry_run:
            done = await replay_letters(self.settings, self.letters, found, rate, self.by)
            found = [letter for letter in found if letter.event_id not in done.gone]
        elif found:
            report.entries += await asyncio.to_thread(self._entries, found)
        report.replayed |= {letter.event_id: "dead letter" for letter in found if letter.event_id}

    def _entries(self, letters: list[IndexedLetter]) -> list[Entry]:
        with RecordLookup(self.settings.kafka, self.settings.dead_topic) as topic:
            entries = (entry_of(topic, group) for group in letters_by_event(letters))
            return [entry for entry in entries if entry is not None]

    async def _from_archive(
        self, kept: dict[str, KeptEvent], names: list[str]
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        """Returns entries of payloads in the archive by event id, and why others could not be read."""
        archive, found, away = PayloadArchive(self.settings.payloads_url), dict[str, KeptEvent](), dict[str, str]()
        for name in names:
            one = kept.get(name)
            if one is not None and one.payload_key is not None and one.payload_place is not None:
                try:
                    text = await archive.read(name, one.payload_place, one.payload_key)
                except ArchiveAway as error:
                    away[name] = str(error)
                else:
                    found[name] = replace(one, payload=text)
        return _from_ledger(found, list(found)), away

    def _from_log(self, names: list[str]) -> dict[str, Entry]:
        with RecordLookup(self.settings.kafka, self.settings.events_topic) as log:
            found = log.find(names)
        return {
            name: Entry(message.key(), value, replay_headers(headers_of(message), ""))
            for name, message in found.items()
            if (value := message.value()) is not None
        }

    async def _from_stripe(self, names: list[str], report: Replayed, entries: dict[str, Entry]) -> None:
        if self.source not in (From.AUTO, From.STRIPE):
            report.missing |= dict.fromkeys(names, f"not found in the {self.source}")
            return
        if self.settings.stripe_api_key is None:
            if self.source is From.STRIPE:
                raise InvalidSettings("BILLING_STRIPE_API_KEY is not set")
            report.missing |= dict.fromkeys(
                names, "neither in the ledger nor on the log; BILLING_STRIPE_API_KEY is not set to fetch it from Stripe"
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

    async def _append(self, entries: list[Entry], rate: RateLimit) -> None:
        if not entries:
            return
        log = EventAppender(self.settings.kafka, self.settings.events_topic, client_id="billing-replay")
        try:
            size = rate.burst(CHUNK)
            for at in range(0, len(entries), size):
                chunk = entries[at : at + size]
                await rate.take(len(chunk))
                await log.append(chunk)
        finally:
            log.close()


async def stripe_entry(api: StripeApi, event_id: str, account: str) -> Entry:
    """Fetch the event from Stripe and return its log entry.

    The content is that of the original webhook, the bytes are not. Raises NotAtStripe.
    """
    if not (event_id.isascii() and event_id.replace("_", "").isalnum()):
        raise NotAtStripe("not a Stripe event id")
    try:
        answer = await api.call(Request(method="GET", path=f"/v1/events/{event_id}", account=account))
    except Refusal as error:
        kept = "; Stripe keeps events for 30 days" if error.status == 404 else ""
        raise NotAtStripe(f"Stripe: {error}{kept}") from None
    except ApiTrouble as error:
        raise NotAtStripe(f"Stripe does not answer: {error}") from None
    event, text = answer.body, answer.text
    if event.get("object") != "event" or event.get("id") != event_id or not isinstance(event.get("type"), str):
        raise NotAtStripe("Stripe's response is not this event")
    if event.get("livemode") is not api.mode.livemode:
        raise NotAtStripe(f"BILLING_STRIPE_API_KEY is in {api.mode} mode, the event is not")
    if account and account_of(event) != account:
        # An event fetched with the header Stripe-Account lacks `account`; in a webhook it has this field.
        event = {**event, "account": account}
        text = orjson.dumps(event).decode()
    return Entry.of(
        event,
        text.encode(),
        source=Source.REPLAY,
        received_at=datetime.now(UTC),
        livemode=api.mode.livemode,
        account=account_of(event) or "",
        api_version=event.get("api_version"),
    )


def _from_ledger(kept: dict[str, KeptEvent], names: list[str]) -> dict[str, Entry]:
    found = {name: kept_entry(kept[name]) for name in names if name in kept}
    return {name: entry for name, entry in found.items() if entry is not None}


def _open(names: list[str], report: Replayed, entries: dict[str, Entry]) -> list[str]:
    return [name for name in names if name not in entries and name not in report.replayed]
