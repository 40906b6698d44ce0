"""Reads an account's objects from Stripe page by page and appends them to the log (behaviours.md F1).

customers with their default cards ─▶ subscriptions ─▶ invoices: open, recent ─▶ past checkouts
    ─▶ recent refunds ─▶ disputes ─▶ past events about what else these objects do not show

Past events are those of the last 30 days (Stripe lists no older ones), newest first. Payments, refunds and disputes
refer to their checkout. A guest's are on other partitions, so a payment may still be applied before it, and then waits.

Only one page is in memory. After each page its end is stored in `billing.imports`, so an interrupted import continues
there. A page that is read twice makes the same events, and the ledger drops what it has.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.imports.coverage import past_types
from recovery.imports.estimate import Estimate, oldest
from recovery.imports.objects import entries_of
from recovery.imports.prices import Prices
from recovery.reconcile.events import append
from recovery.window import KEPT
from schemas.errors import BillingError
from schemas.record import MAX_RECORD_BYTES
from sinks.postgres.imports import ImportRow, ImportRows
from sinks.stripe_api.api import ApiTrouble, Refusal
from sinks.stripe_api.listing import ListPage, Lists

log = structlog.get_logger(__name__)

RESUMED_WITHIN = timedelta(days=1)
"""An interrupted import that began earlier is not continued: what its first pages said is too old."""
_LARGEST = MAX_RECORD_BYTES - 65_536
"""Largest event in bytes. Leaves room for the record's key and headers."""
_GONE = (400, 404)
"""Stripe's answers if the object after which a page should begin does not exist any more."""
_NOT_EXPANDED = (400, 403)
"""Stripe's answers if the key may not read coupons. Then discounts are known by what events and invoices say. The first
of them may also be about the object after which a page should begin."""
_SAID_EVERY_S = 10.0
"""Pause between two lines in the log about the progress."""

CUSTOMERS, REFUNDS, CHECKOUTS, PAST = "customers", "recent refunds", "past checkouts", "past events"
MOST_TYPES = 20
"""As many types of events Stripe takes in one request. Plugins can have rules for more."""
_COUNTED = ("appended", "too_large")
_WITHOUT_DISCOUNTS = "without discounts: "
"""Counts beside those of objects by part. The last one is also by part, whose name follows."""


class AnotherImport(BillingError):
    """Another import is running. Two at once would share Stripe's rate limit."""


@dataclass(frozen=True, slots=True)
class ImportedList:
    """One list at Stripe. `is_recent`: only what was created since the import's `since`."""

    name: str
    path: str
    params: dict[str, Any]
    is_recent: bool = False


PARTS = (
    ImportedList(
        CUSTOMERS,
        "/v1/customers",
        {"expand": ["data.invoice_settings.default_payment_method", "data.discount.source.coupon"]},
    ),
    ImportedList(
        "subscriptions",
        "/v1/subscriptions",
        {"status": "all", "expand": ["data.default_payment_method", "data.discounts.source.coupon"]},
    ),
    ImportedList("open invoices", "/v1/invoices", {"status": "open", "expand": ["data.payments"]}),
    ImportedList("recent invoices", "/v1/invoices", {"expand": ["data.payments"]}, is_recent=True),
    ImportedList(CHECKOUTS, "/v1/events", {}, is_recent=True),
    ImportedList(REFUNDS, "/v1/refunds", {"expand": ["data.charge"]}, is_recent=True),
    ImportedList("disputes", "/v1/disputes", {}),
    ImportedList(PAST, "/v1/events", {}, is_recent=True),
)
"""In the order in which they are read: what refers to something comes after it."""
_NAMES = [part.name for part in PARTS]


@dataclass(slots=True)
class ImportReport:
    """`read` is the number of objects by part, `appended` that of events, `too_large` of objects that do not fit.

    `bare` is the number of customers and of subscriptions that were read without their coupons.
    """

    read: Counter[str] = field(default_factory=Counter)
    appended: int = 0
    too_large: int = 0
    bare: Counter[str] = field(default_factory=Counter)
    resumed_at: str | None = None
    """The part at which an interrupted import continued. The counts are those of the whole import."""
    since: datetime | None = None

    @property
    def counts(self) -> dict[str, int]:
        bare = {f"{_WITHOUT_DISCOUNTS}{name}": count for name, count in self.bare.items()}
        return {**self.read, **bare, **{name: getattr(self, name) for name in _COUNTED}}

    @property
    def without_discounts(self) -> int:
        """The sum of `bare`."""
        return self.bare.total()

    def forget(self, part: str) -> None:
        """Count this part from 0: it is read again from its start."""
        self.read[part] = self.bare[part] = 0

    @classmethod
    def of(cls, row: ImportRow, *, is_resumed: bool) -> ImportReport:
        read, bare = Counter[str](), Counter[str]()
        for name, count in row.counts.items():
            if name.startswith(_WITHOUT_DISCOUNTS):
                bare[name.removeprefix(_WITHOUT_DISCOUNTS)] = count
            elif name not in _COUNTED:
                read[name] = count
        appended, too_large = (row.counts.get(name, 0) for name in _COUNTED)
        return cls(read, appended, too_large, bare, row.part if is_resumed else None, row.since)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a part is. `about` is an estimate of its objects, None until there is one."""

    part: str
    read: int
    about: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Imports one account, '' for the platform's own."""

    lists: Lists
    rows: ImportRows
    event_log: EventAppender
    account: str
    clock: Callable[[], datetime]

    async def run(
        self, since: datetime, say: Callable[[Progress], None] = lambda _: None, *, restart: bool = False
    ) -> ImportReport:
        """Import, or continue an interrupted import unless `restart`.

        Raises AnotherImport, ApiTrouble, LogUnavailable, StoreUnavailable. What was appended by then stays; run it
        again.
        """
        if not await self.rows.take_turn():
            raise AnotherImport("another import is running")
        row = await self.rows.find(self.account)
        is_resumed = (
            not restart
            and row is not None
            and row.ended_at is None
            and row.started_at > self.clock() - RESUMED_WITHIN
            and _can_continue(row)
        )
        if row is None or not is_resumed:
            # Read before the first object, so that each object contains every earlier change.
            first = await self.lists.page(PARTS[0].path, {}, self.account, limit=1)
            row = await self.rows.begin(self.account, since, first.as_of, _NAMES[0])
        report = ImportReport.of(row, is_resumed=is_resumed)
        # Events from after the first import arrive, or are found by reconciliation, and are mailed about.
        past_until = row.covers_until or row.started_at
        running = _Run(self, row, report, say, Prices(self.lists, self.account), past_until)
        try:
            for part in PARTS[_NAMES.index(row.part) :]:
                await running.read(part, row.after if part.name == row.part else None)
        except ApiTrouble as error:
            await self.rows.fail(self.account, f"{type(error).__name__}: {error}")
            raise
        # Events are listed for so long; those of invoices and refunds that were not read still have to arrive.
        is_whole = report.too_large == 0 and row.since <= row.started_at - KEPT
        await self.rows.end(self.account, self.clock(), report.counts, covers=is_whole)
        return report


@dataclass(slots=True)
class _Run:
    importer: Importer
    row: ImportRow
    report: ImportReport
    say: Callable[[Progress], None]
    prices: Prices
    past_until: datetime
    said_at: float = field(default_factory=time.monotonic)
    types: frozenset[str] = frozenset()
    """The types of the past events that the part consists of."""

    async def read(self, part: ImportedList, after: str | None) -> None:
        """Read one part to its end, beginning after this object."""
        lists, account, since = self.importer.lists, self.importer.account, int(self.row.since.timestamp())
        whole = part.params | ({"created": {"gte": since}} if part.is_recent else {})
        if part.name in (CHECKOUTS, PAST):
            self.types = frozenset(past_types(checkouts=part.name == CHECKOUTS))
            whole |= {"created": {"gte": since, "lt": int(self.past_until.timestamp())}}
            if len(self.types) <= MOST_TYPES:
                whole |= {"types": sorted(self.types)}
        self.report.read[part.name] += 0  # so that it is known that this version has read it
        params = whole
        estimate: Estimate | None = None
        is_repeated = False
        while True:
            try:
                page = await lists.page(part.path, params, account, after=after)
            except Refusal as error:
                if error.status in _NOT_EXPANDED and _without_discounts(params) != params:
                    log.warning("import.no_discounts", action="import.no_discounts", part=part.name, error=str(error))
                    params = _without_discounts(params)
                    continue
                if after is None or is_repeated or error.status not in _GONE:
                    raise
                # Stripe has deleted the object at which it continues. What is read again makes the same events.
                log.warning("import.part_repeated", action="import.part_repeated", part=part.name, after=after)
                after, params, is_repeated = None, whole, True
                self.report.forget(part.name)
                continue
            if params != whole:
                self.report.bare[part.name] += len(page.items)
            await self._append(part, page)
            after = page.items[-1].id if page.has_more else None
            following = _NAMES[min(_NAMES.index(part.name) + (not page.has_more), len(_NAMES) - 1)]
            is_last = not page.has_more and part.name == _NAMES[-1]
            if not is_last:
                await self.importer.rows.advance(account, following, after, self.report.counts)
            if estimate is None and page.has_more:
                begin = since if part.is_recent else await oldest(lists, part.path, part.params, account, page.as_of)
                estimate = Estimate.of(begin, page)
            self._say(part, page, estimate)
            if not page.has_more:
                return

    def _say(self, part: ImportedList, page: ListPage, estimate: Estimate | None) -> None:
        if estimate is not None:
            estimate.add(page)
        read = self.report.read[part.name]
        about = read if not page.has_more else estimate.about(read) if estimate is not None else None
        self.say(Progress(part.name, read, about))
        if time.monotonic() - self.said_at >= _SAID_EVERY_S:
            self.said_at = time.monotonic()
            left_s = estimate.left_s() if estimate is not None and page.has_more else None
            log.info("import.progress", action="import.progress", part=part.name, read=read, about=about, left_s=left_s)

    async def _append(self, part: ImportedList, page: ListPage) -> None:
        entries: dict[bytes, Entry] = {}
        """By event id: the newest refund of a charge comes first, and an older one has the same sum."""
        for item in page.items:
            if part.name in (CHECKOUTS, PAST) and orjson.loads(item.text).get("type") not in self.types:
                continue
            self.report.read[part.name] += 1
            made = [entry for one in await self._objects(part, item.text) for entry in self._entries(one, page)]
            if any(len(entry.value) > _LARGEST for entry in made):
                self.report.too_large += 1
                log.error("import.too_large", action="import.too_large", object=item.id)
                continue
            for entry in made:
                entries.setdefault(dict(entry.headers)["event_id"], entry)
        if entries:
            await append(self.importer.event_log, list(entries.values()))
            self.report.appended += len(entries)

    async def _objects(self, part: ImportedList, text: str) -> list[dict[str, Any]]:
        """Return the listed object as its events have it, and the objects that came with it."""
        obj: dict[str, Any] = orjson.loads(text)
        if part.name == REFUNDS:
            charge = await self._expanded(obj, "charge", "/v1/charges")
            return [obj | {"charge": charge}] if charge is not None else []
        holder = obj.get("invoice_settings") if part.name == CUSTOMERS else obj
        card = await self._expanded(holder, "default_payment_method", "/v1/payment_methods")
        if card is not None and isinstance(holder, dict):
            holder["default_payment_method"] = card["id"]
            self.report.read["default cards"] += 1
            return [obj, card]
        if obj.get("object") == "invoice":
            await self.prices.add_to(obj)
        return [obj]

    async def _expanded(self, holder: Any, name: str, path: str) -> dict[str, Any] | None:
        """Return the object that a field names. Old versions of the API expand less, so it may need a request."""
        found = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(found, str):
            found = await self.importer.lists.one(f"{path}/{found}", self.importer.account)
        return found if isinstance(found, dict) else None

    def _entries(self, obj: dict[str, Any], page: ListPage) -> list[Entry]:
        own = self.importer
        return entries_of(
            obj, page, account=own.account, livemode=own.lists.mode.livemode, now=own.clock(),
            began_at=self.row.started_at,
        )  # fmt: skip


def _can_continue(row: ImportRow) -> bool:
    """Whether this version has begun the import: another one reads other parts, or in another order."""
    return row.part in _NAMES and all(name in row.counts for name in _NAMES[: _NAMES.index(row.part)])


def _without_discounts(params: dict[str, Any]) -> dict[str, Any]:
    expand = [path for path in params.get("expand", ()) if "discount" not in path]
    return {**params, "expand": expand} if "expand" in params else params
