"""The audit: reads Stripe's events and objects page by page, compares them with the tables, and stores what differs.

    events ─▶ subscriptions ─▶ invoices ─▶ charges ─▶ refunds ─▶ check again what differs ─▶ totals

A list shows one moment, so whatever differs is read again at the end, from Stripe and from the table. Only what still
differs then is reported. The position is stored after each page, so an interrupted run continues there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from recovery.audit.books import AuditBooks, DayTotal, links_of
from recovery.audit.compare import MISSING, AuditWindow, ComparedObject, compared
from recovery.audit.differences import PAYMENTS, AuditDifference, Cause, Kind, cause_of_event, doubled, repair_of
from recovery.audit.listing import PATHS, params_of_list, params_of_one
from recovery.audit.runs import KEPT_DAYS, AuditRun, AuditRuns, PageFindings
from recovery.imports.coverage import is_covered
from recovery.window import GRACE, KEPT, Window, slices
from schemas.errors import BillingError
from schemas.settings import Config
from sinks.stripe_api.api import ApiTrouble, Refusal
from sinks.stripe_api.listing import ListPage, Lists
from streams.rules.catalog import rule_of

log = structlog.get_logger(__name__)

DEFAULT = timedelta(days=7)
RESUMED_WITHIN = timedelta(days=1)
"""An interrupted run that began earlier is not resumed: its first pages are too old."""
_LISTED = {Kind.SUBSCRIPTION: "subscriptions", Kind.INVOICE: "invoices", Kind.CHARGE: "charges", Kind.REFUND: "refunds"}
_EVENTS, _CHECK, _TOTALS = "events", "check", "totals"
PHASES = (_EVENTS, *_LISTED.values(), _CHECK, _TOTALS)
_AT_ONCE = 50
_GONE = 404
_OF_THIS_OBJECT = (400, 402, 410, 422)
"""Refusals that say nothing about other objects, so the run goes on. A key without the right (401, 403) ends it."""


class AnotherAudit(BillingError):
    """Another audit is running. Two at once would share Stripe's rate limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAsked:
    """What to audit. Times are UTC; None is the default: the last seven days, up to `grace` ago."""

    since: datetime | None = None
    until: datetime | None = None
    scope: str = ""
    """The window as it was asked for. A run resumes only an interrupted run of the same scope."""
    grace: timedelta = GRACE
    settle_s: float = 30.0
    """Seconds before what differs is read again: events of the last moments may not be applied yet."""
    fresh: bool = False
    """Do not resume."""


@dataclass(slots=True)
class AuditReport:
    """The result for one account."""

    account: str
    window_from: datetime
    window_until: datetime
    is_resumed: bool = False
    run_id: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Compared objects by kind."""
    events_since: datetime | None = None
    """Stripe lists events for 30 days. Set if the window begins earlier."""
    totals: list[DayTotal] = field(default_factory=list)
    differences: list[AuditDifference] = field(default_factory=list)
    """At most as many as were asked for."""
    differing: int = 0
    trouble: str | None = None
    is_unavailable: bool = False

    @property
    def agrees(self) -> bool:
        return self.trouble is None and not self.differing


Progress = Callable[[AuditReport], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """Audits one account after another. `on_the_way` returns the ids of events on the log that are not processed."""

    lists: Lists
    runs: AuditRuns
    books: AuditBooks
    config: Config
    on_the_way: Callable[[], frozenset[str]]
    clock: Callable[[], datetime]

    async def take_turn(self) -> None:
        """Begin to be the only audit; again does no harm. Raises AnotherAudit, StoreUnavailable."""
        if not await self.runs.take_turn():
            raise AnotherAudit("another audit is running")

    async def run(
        self, asked: AuditAsked, accounts: Sequence[str], *, most: int = 1000, progress: Progress | None = None
    ) -> list[AuditReport]:
        """Audit the accounts; '' is the platform's own. Errors of Stripe are in the account's report.

        `progress` is called with the report of each account. Raises AnotherAudit, StoreUnavailable, LogUnavailable, and
        what `progress` raises.
        """
        await self.take_turn()
        reports = []
        for account in accounts:
            reports.append(report := await self._account(asked, account, most))
            if progress is not None:
                await progress(report)
        return reports

    async def _account(self, asked: AuditAsked, account: str, most: int) -> AuditReport:
        now = self.clock()
        run = None if asked.fresh else await self.runs.interrupted(account, asked.scope, now - RESUMED_WITHIN)
        is_resumed = run is not None
        if run is None:
            end = min(asked.until or now, now - asked.grace).replace(microsecond=0)
            start = min(asked.since or now - DEFAULT, end).replace(microsecond=0)
            run = await self.runs.begin(account, asked.scope, start, end, now, PHASES[0])
        report = AuditReport(account, run.window_from, run.window_until, is_resumed, run.run_id)
        if run.window_from < now - KEPT:
            report.events_since = now - KEPT
        try:
            report.totals = await _AuditRun(self, run, asked.settle_s).work()
        except ApiTrouble as error:
            report.trouble = f"{type(error).__name__}: {error}"
            report.is_unavailable = error.is_temporary
            await self.runs.fail(run, report.trouble)
        else:
            plain = [
                {"what": one.what, "day": one.day.isoformat(), "currency": one.currency, "amount": one.stripe}
                for one in report.totals
            ]
            await self.runs.end(run, self.clock(), plain, now - timedelta(days=KEPT_DAYS))
        report.counts = run.counts
        report.differences = await self.runs.differences(run, most=most)
        report.differing = await self.runs.count(run)
        write = log.error if report.trouble else log.info
        write(
            "audit.ended",
            action="audit.ended",
            account=account,
            window_from=run.window_from.isoformat(),
            window_until=run.window_until.isoformat(),
            differences=report.differing,
            trouble=report.trouble,
            **report.counts,
        )
        return report


@dataclass(frozen=True, slots=True)
class _AuditRun:
    auditor: Auditor
    run: AuditRun
    settle_s: float

    @property
    def window(self) -> AuditWindow:
        return AuditWindow(self.run.window_from, self.run.window_until)

    async def work(self) -> list[DayTotal]:
        """Do the phases from where the run is. Raises ApiTrouble, StoreUnavailable, LogUnavailable."""
        run = self.run
        for phase in PHASES[PHASES.index(run.phase) :]:
            if phase != run.phase:
                run.phase, run.cursor = phase, ""
                await self.auditor.runs.advance(run, PageFindings())
            if phase == _EVENTS:
                await self._events()
            elif phase == _CHECK:
                await self._check()
            elif phase != _TOTALS:
                await self._objects(next(kind for kind, name in _LISTED.items() if name == phase))
        return await self._totals()

    # -- events ----------------------------------------------------------------------------------------------------

    async def _events(self) -> None:
        run, books = self.run, self.auditor.books
        waiting = await asyncio.to_thread(self.auditor.on_the_way)
        covered = await books.covered_until(run.account)
        first = max(run.window_from, self.auditor.clock() - KEPT).replace(microsecond=0)
        start = max(datetime.fromisoformat(run.cursor), first) if run.cursor else first
        async for part in slices(self.auditor.lists, Window(start, run.window_until), run.account, {}):
            findings = PageFindings()
            outcomes = await books.outcomes([event.id for event in part.events])
            for event in part.events:
                type_ = event.object.get("type")
                if event.id not in outcomes and (rule_of(str(type_)) is None or is_covered(event.object, covered)):
                    continue  # an endpoint need not be sent what no rule applies, nor what was imported
                cause = cause_of_event(outcomes.get(event.id), is_waiting=event.id in waiting)
                if cause is not None:
                    data = event.object.get("data")
                    item = data.get("object") if isinstance(data, dict) else None
                    subject = item.get("id") if isinstance(item, dict) else None
                    fields = {"outcome": [type_, outcomes.get(event.id)]}
                    findings.differences.append(
                        self._named(AuditDifference(Kind.EVENT, event.id, fields, cause, str(subject or "")))
                    )
            unsent = await books.unsent(
                run.account,
                part.start,
                part.end,
                [event.id for event in part.events],
                livemode=self.auditor.lists.mode.livemode,
            )
            findings.differences += [
                self._named(AuditDifference(Kind.EVENT, id_, {"outcome": [None, type_]}, Cause.UNKNOWN_TO_STRIPE))
                for id_, type_ in unsent.items()
            ]
            run.cursor = part.end.isoformat()
            run.counts["events"] = run.counts.get("events", 0) + len(part.events)
            await self.auditor.runs.advance(run, findings)

    # -- objects ---------------------------------------------------------------------------------------------------

    async def _objects(self, kind: Kind) -> None:
        run, name = self.run, _LISTED[kind]
        async with aclosing(self._pages(kind)) as pages:
            async for page in pages:
                findings = PageFindings()
                items = [item.object for item in page.items]
                rows = await self.auditor.books.rows(kind, run.account, items)
                for item in items:
                    result = compared(kind, item, rows.get(item["id"]), self.window, self.auditor.config)
                    self._note(findings, kind, item["id"], result)
                run.counts[name] = run.counts.get(name, 0) + len(items)
                run.cursor = items[-1]["id"] if items else run.cursor
                await self.auditor.runs.advance(run, findings)
        if kind is Kind.CHARGE:
            twice = await self.auditor.books.stored_twice(run)
            known = {one.id: one for one in await self.auditor.runs.of_objects(run, kind, list(twice))}
            found = [doubled(known.get(id_), id_, rows) for id_, rows in twice.items()]
        else:
            ids = await self.auditor.books.unlisted(kind, run)
            found = [AuditDifference(kind, id_, {"listed": [False, True]}) for id_ in ids]
        await self.auditor.runs.advance(run, PageFindings([self._named(one) for one in found]))

    async def _pages(self, kind: Kind) -> AsyncGenerator[ListPage]:
        run = self.run
        params = params_of_list(kind, self.window)
        after = {"starting_after": run.cursor} if run.cursor else {}
        try:
            async for page in self.auditor.lists.pages(PATHS[kind], params | after, run.account):
                yield page
        except Refusal as error:
            if not after or error.code != "resource_missing":
                raise
            # Stripe does not know the object any more at which the run was interrupted. What is stored is stored by id.
            run.cursor, run.counts[_LISTED[kind]] = "", 0
            async for page in self.auditor.lists.pages(PATHS[kind], params, run.account):
                yield page

    def _note(self, findings: PageFindings, kind: Kind, id_: str, result: ComparedObject) -> None:
        findings.seen.append((kind, id_, result.money))
        if result.fields:
            cause = result.cause or Cause.UNEXPLAINED
            findings.differences.append(self._named(AuditDifference(kind, id_, result.fields, cause)))
        else:
            findings.agreeing.append((kind, id_))

    def _named(self, found: AuditDifference) -> AuditDifference:
        return replace(found, repair=repair_of(found, self.run.account, self.run.window_from))

    # -- what differs is read again --------------------------------------------------------------------------------

    async def _check(self) -> None:
        run, runs = self.run, self.auditor.runs
        if not run.cursor and await runs.count(run):
            await asyncio.sleep(self.settle_s)
        waiting = await asyncio.to_thread(self.auditor.on_the_way)
        kind, _, id_ = run.cursor.partition("/")
        while found := await runs.differences(run, (kind, id_), _AT_ONCE):
            findings = PageFindings()
            await self._check_events([one for one in found if one.kind is Kind.EVENT], waiting, findings)
            for one in found:
                if one.kind in PATHS:
                    await self._check_object(one, findings)
            if any(one.cause is Cause.STORED_TWICE for one in found):
                await self._check_doubled(found, findings)
            kind, id_ = found[-1].kind, found[-1].id
            run.cursor = f"{kind}/{id_}"
            await runs.advance(run, findings)

    async def _check_events(
        self, found: Sequence[AuditDifference], waiting: frozenset[str], findings: PageFindings
    ) -> None:
        outcomes = await self.auditor.books.outcomes([one.id for one in found])
        for one in found:
            if one.cause is Cause.UNKNOWN_TO_STRIPE:
                continue
            cause = cause_of_event(outcomes.get(one.id), is_waiting=one.id in waiting)
            if cause is None:
                findings.agreeing.append((one.kind, one.id))
            elif cause is not one.cause:
                fields = {"outcome": [one.fields["outcome"][0], outcomes.get(one.id)]}
                findings.differences.append(self._named(replace(one, cause=cause, fields=fields)))

    async def _check_doubled(self, found: Sequence[AuditDifference], findings: PageFindings) -> None:
        """Read again which charges are stored twice, and add that to what else differs of them."""
        twice = await self.auditor.books.stored_twice(self.run)
        others = {one.id: one for one in findings.differences if one.kind is Kind.CHARGE}
        charges = [one.id for one in found if one.kind is Kind.CHARGE and one.id in twice]
        findings.differences += [self._named(doubled(others.get(id_), id_, twice[id_])) for id_ in charges]
        findings.agreeing = [one for one in findings.agreeing if one not in {(Kind.CHARGE, id_) for id_ in charges}]

    async def _check_object(self, found: AuditDifference, findings: PageFindings) -> None:
        account = self.run.account
        found = replace(found, fields={name: both for name, both in found.fields.items() if name != PAYMENTS})
        try:
            answer = await self.auditor.lists.get(f"{PATHS[found.kind]}/{found.id}", account, params_of_one(found.kind))
        except Refusal as error:
            if error.status in _OF_THIS_OBJECT:
                refused = {"object": [f"Stripe refuses to show it: {error}", None]}
                findings.differences.append(self._named(replace(found, fields=refused, cause=Cause.UNREADABLE)))
                return
            if error.status != _GONE:
                raise
            findings.seen.append((found.kind, found.id, None))  # what was listed of it counts no more
            if found.fields == MISSING:  # deleted since it was listed, and never stored
                findings.agreeing.append((found.kind, found.id))
                return
            gone = replace(found, fields={"known": [False, True]}, cause=Cause.UNKNOWN_TO_STRIPE)
            findings.differences.append(self._named(gone))
            return
        item = answer.body
        if item.get("id") != found.id:
            unreadable = {"object": [f"Stripe answered with another object, {item.get('id')!r:.60}", None]}
            findings.differences.append(self._named(replace(found, fields=unreadable, cause=Cause.UNREADABLE)))
            return
        row = (await self.auditor.books.rows(found.kind, account, [item])).get(found.id)
        result = compared(found.kind, item, row, self.window, self.auditor.config)
        checked = PageFindings()
        self._note(checked, found.kind, found.id, result)
        findings.seen += checked.seen
        findings.agreeing += checked.agreeing
        for one in checked.differences:
            findings.differences.append(await self._explained(found, one, item, result))

    async def _explained(
        self, before: AuditDifference, now: AuditDifference, item: Any, result: ComparedObject
    ) -> AuditDifference:
        """Return the difference with its cause, as far as events, ledger and Stripe show it."""
        if result.cause is not None:
            return now
        subjects = [now.id, *(links_of(now.kind, item) if now.kind in (Kind.CHARGE, Kind.REFUND) else ())]
        of_event = await self.auditor.runs.event_difference(self.run, subjects)
        if of_event is not None and of_event[0] is not Cause.UNKNOWN_TO_STRIPE:
            cause, repair = of_event
            return replace(now, cause=cause, repair=repair)
        if "listed" not in before.fields and before.stripes != now.stripes:
            return self._named(replace(now, cause=Cause.CHANGED_MEANWHILE))
        customer = item.get("customer")
        customer_id = customer.get("id") if isinstance(customer, dict) else customer
        newest = await self.auditor.books.newest_outcome(self.run.account, customer_id, now.id)
        if newest == "stale":
            return self._named(replace(now, cause=Cause.STALE))
        return now

    # -- totals ----------------------------------------------------------------------------------------------------

    async def _totals(self) -> list[DayTotal]:
        totals = await self.auditor.books.totals(self.run, self.window)
        kinds = await self.auditor.runs.kinds(self.run)
        findings = PageFindings()
        for total in totals:
            id_ = f"{total.what} {total.day} {total.currency}"
            if total.stripe == total.ours:
                findings.agreeing.append((Kind.TOTAL, id_))
                continue
            of = Kind.INVOICE if total.what == "paid" else Kind.REFUND
            cause = Cause.OF_OBJECTS if of in kinds else Cause.UNEXPLAINED
            found = AuditDifference(Kind.TOTAL, id_, {"amount": [total.stripe, total.ours]}, cause)
            findings.differences.append(self._named(found))
        await self.auditor.runs.advance(self.run, findings)
        return totals
