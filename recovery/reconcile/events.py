"""Finds Stripe events that never arrived and appends them to the log (behaviours.md D7).

    list a slice of time at Stripe ─▶ drop events in the ledger ─▶ drop events on the log ─▶ append ─▶ move the cursor

If a run is killed after the append and before the cursor moves, the next run processes the same slice again, and finds
the appended events on the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.imports.coverage import is_covered
from recovery.reconcile.report import MissingEvent, ReconcileReport, SliceFindings, age_of, moment
from recovery.reconcile.runs import ReconcileRun, Runs
from recovery.window import GRACE, MOST, Slice, Window, is_joined, slices, window_of
from schemas.errors import BillingError, LogUnavailable
from schemas.ordering import account_of
from schemas.record import MAX_RECORD_BYTES, Source
from schemas.timing import Timetable
from sinks.stripe_api.api import ApiTrouble
from sinks.stripe_api.listing import Listed, ListingBroken, Lists

log = structlog.get_logger(__name__)

_AT_ONCE = 500
_LARGEST = MAX_RECORD_BYTES - 65_536
"""Largest event in bytes. Leaves room for the record's key and headers."""
_APPENDING = Timetable(first=timedelta(seconds=1), factor=2, tries=6)


_NARROW = "since"

Progress = Callable[[ReconcileReport, bool], Awaitable[None]]
"""Is called after each slice, and with True once the account is complete."""


async def no_progress(_report: ReconcileReport, _is_complete: bool) -> None:
    """Stores nothing: the row of the run is all that a command needs."""


class AnotherIsAtIt(BillingError):
    """Another reconciliation is running. Two at once would share Stripe's rate limit and find the same events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """What to reconcile. Times are UTC; None is the default (window.py)."""

    since: datetime | None = None
    until: datetime | None = None
    types: tuple[str, ...] = ()
    undelivered_only: bool = False
    """Only events that Stripe could not deliver to an endpoint."""
    dry_run: bool = False
    grace: timedelta = GRACE
    joins_on: bool = False
    """Begin before `since` if the last complete run ended earlier, so that no gap is left between both."""

    @property
    def params(self) -> dict[str, Any]:
        types = {"types": list(self.types)} if self.types else {}
        return types | ({"delivery_success": False} if self.undelivered_only else {})

    @property
    def scope(self) -> str:
        """The run's filters as text, '' for all events. A run resumes only an interrupted run of the same scope."""
        parts = sorted(self.types) + ["undelivered"] * self.undelivered_only
        return " ".join(parts)

    @property
    def narrow_scope(self) -> str:
        """The scope of a run that leaves a gap after the last complete one, so it does not settle what is before it."""
        return f"{self.scope} {_NARROW}".lstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Reconciles events. `on_the_way` returns the ids of events on the log that the worker has not processed yet."""

    lists: Lists
    runs: Runs
    event_log: EventAppender
    on_the_way: Callable[[], frozenset[str]]
    clock: Callable[[], datetime]
    most: int = MOST

    async def take_turn(self, asked: ReconcileRequest) -> None:
        """Begin to be the only reconciliation, unless it is a dry run. Raises AnotherIsAtIt, StoreUnavailable.

        It does no harm to take the turn again that one has.
        """
        if not asked.dry_run and not await self.runs.take_turn():
            raise AnotherIsAtIt("another reconciliation is running")

    async def run(
        self, asked: ReconcileRequest, accounts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[ReconcileReport]:
        """Reconcile one account after another; '' is the platform's own.

        Errors of Stripe or Kafka are in the account's report, and the run continues with the next account. Raises
        AnotherIsAtIt, StoreUnavailable, and what `progress` raises.
        """
        await self.take_turn(asked)
        # Read before the ledger: an event processed in between is found in the ledger.
        waiting = await asyncio.to_thread(self.on_the_way)
        return [await self._account(asked, account, waiting, progress) for account in accounts]

    async def _account(
        self, asked: ReconcileRequest, account: str, waiting: frozenset[str], progress: Progress
    ) -> ReconcileReport:
        now = self.clock()
        ended = await self.runs.newest(account, asked.scope, ended=True)
        settled_until = ended.window_until if ended is not None else None
        since = asked.since
        if since is not None and asked.joins_on and settled_until is not None:
            since = min(since, settled_until)
        window = window_of(now, since=since, until=asked.until, settled_until=settled_until, grace=asked.grace)
        scope = asked.scope if is_joined(window, now, settled_until) else asked.narrow_scope
        # Events before an import would only repeat what it has read.
        covered = await self.runs.covered_until(account) if asked.since is None else None
        report = ReconcileReport(account, window.start, window.end)
        run = None if asked.dry_run else await self._begin(scope, window, report, now)
        rest = Window(run.cursor, window.end) if run is not None and report.resumed_at is not None else window
        await progress(report, False)
        try:
            async for part in slices(self.lists, rest, account, asked.params, most=self.most):
                found = await self._settle(part, report, waiting, covered, is_dry=run is None)
                if run is not None:
                    # Before the cursor moves: if a slice is read again, its events are on the log and not appended
                    # again. What else it has counts after that: it would count again.
                    await progress(report, False)
                    await self.runs.advance(run, part.end, window.end, report.counts_with(found))
                report.note_slice(found)
                await progress(report, False)
        except (ApiTrouble, LogUnavailable) as error:
            report.trouble = f"{type(error).__name__}: {error}"
            report.is_unavailable = isinstance(error, LogUnavailable) or error.is_temporary
            if run is not None:
                await self.runs.fail(run, report.trouble)
        else:
            if run is not None:
                await self.runs.end(run, self.clock())
            await progress(report, True)
        _log(report, is_dry=run is None)
        return report

    async def _begin(self, scope: str, window: Window, report: ReconcileReport, now: datetime) -> ReconcileRun:
        """Return the interrupted run if it can be resumed in this window, else begin a new one."""
        left = await self.runs.newest(report.account, scope, ended=False)
        ended = await self.runs.newest(report.account, scope, ended=True)
        is_latest = left is not None and (ended is None or left.run_id > ended.run_id)
        if left is not None and is_latest and left.window_from <= window.start < left.cursor <= window.end:
            report.resumed_at = left.cursor
            return left
        return await self.runs.begin(report.account, scope, now, window.start, window.end)

    async def _settle(
        self,
        part: Slice,
        report: ReconcileReport,
        waiting: frozenset[str],
        covered: datetime | None,
        *,
        is_dry: bool,
    ) -> SliceFindings:
        now = self.clock()
        found = SliceFindings(len(part.events))
        missing: list[Listed] = []
        for first in range(0, len(part.events), _AT_ONCE):
            batch = part.events[first : first + _AT_ONCE]
            known = await self.runs.known([event.id for event in batch])
            unknown = [event for event in batch if event.id not in known and not is_covered(event.object, covered)]
            missing += [event for event in unknown if event.id not in waiting]
            found.on_the_way += sum(event.id in waiting for event in unknown)
        entries: list[Entry] = []
        fed: list[MissingEvent] = []
        for event in missing:
            entry, created = self._entry(event, report.account, now)
            noted = MissingEvent(event.id, event.object["type"], created, age_of(created, now))
            is_too_large = len(entry.value) > _LARGEST
            if is_too_large:
                found.too_large += 1
                log.error("reconcile.too_large", action="reconcile.too_large", event_id=event.id)
            if is_dry or is_too_large:
                found.not_fed.append(noted)
            else:
                entries.append(entry)
                fed.append(noted)
        for first in range(0, len(entries), _AT_ONCE):
            at_once = slice(first, first + _AT_ONCE)
            await append(self.event_log, entries[at_once], partial(report.note_fed, fed[at_once]))
        return found

    def _entry(self, event: Listed, account: str, now: datetime) -> tuple[Entry, datetime]:
        o = event.object
        try:
            created, type_ = moment(o["created"]), str(o["type"])
        except (KeyError, ValueError):
            raise ListingBroken(f"{event.id:.50} is not an event") from None
        if o.get("livemode") is not self.lists.mode.livemode:
            raise ListingBroken(f"{event.id:.50} is not in {self.lists.mode} mode, the key is")
        text = event.text
        if account and account_of(o) != account:
            # An event fetched with the header Stripe-Account lacks `account`; in a webhook it has this field.
            o, text = {**o, "account": account}, f'{text[:-1]},"account":"{account}"}}'
        entry = Entry.of(
            {**o, "id": event.id, "type": type_},
            text.encode(),
            source=Source.RECONCILE,
            received_at=now,
            livemode=self.lists.mode.livemode,
            account=account_of(o) or "",
            api_version=o.get("api_version"),
        )
        return entry, created


async def append(event_log: EventAppender, entries: Sequence[Entry], stored: Callable[[], None] = lambda: None) -> None:
    """Append the entries, retrying for about half a minute. Raises LogUnavailable.

    `stored` is called once they are on the log, also if the task is cancelled meanwhile.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return await event_log.append(entries, stored)
        except LogUnavailable:
            pause = _APPENDING.pause_after(tries, 0.5)
            if pause is None:
                raise
        await asyncio.sleep(pause.total_seconds())


def _log(report: ReconcileReport, *, is_dry: bool) -> None:
    write = log.error if report.trouble else log.info
    write(
        "reconcile.ended",
        action="reconcile.ended",
        account=report.account,
        window_from=report.window_from.isoformat(),
        window_until=report.window_until.isoformat(),
        dry_run=is_dry,
        trouble=report.trouble,
        **report.counts,
    )
