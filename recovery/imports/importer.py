"""Reads an account's objects from Stripe page by page and appends them to the log (behaviours.md F1).

customers with their default cards ─▶ subscriptions ─▶ invoices: open, recent ─▶ disputes

Only one page is in memory. After each page its end is stored in a file, so an interrupted import continues there. If
the file is lost, pages are read again, and the ledger drops what it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.imports.objects import entries_of
from recovery.reconcile.events import append
from schemas.errors import BillingError
from schemas.record import MAX_RECORD_BYTES
from sinks.stripe_api.listing import Lists, Page

_LARGEST = MAX_RECORD_BYTES - 65_536
"""Largest event in bytes. Leaves room for the record's key and headers."""


class ProgressUnreadable(BillingError):
    """The file with the progress is not one that an import wrote. The message names it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One list at Stripe."""

    name: str
    path: str
    params: dict[str, Any]


@dataclass(slots=True)
class ImportReport:
    """`read` is the number of objects by part, `appended` that of events, `too_large` of objects that do not fit."""

    read: Counter[str] = field(default_factory=Counter)
    appended: int = 0
    too_large: int = 0
    resumed_at: str | None = None
    """The part at which an interrupted import continued."""


def parts(since: datetime) -> list[Part]:
    """Returns the lists in the order in which they are read. Invoices created from `since` on are recent."""
    payments = {"expand": ["data.payments"]}
    return [
        Part("customers", "/v1/customers", {"expand": ["data.invoice_settings.default_payment_method"]}),
        Part("subscriptions", "/v1/subscriptions", {"status": "all"}),
        Part("open invoices", "/v1/invoices", {"status": "open", **payments}),
        Part("recent invoices", "/v1/invoices", {"created": {"gte": int(since.timestamp())}, **payments}),
        Part("disputes", "/v1/disputes", {}),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Imports one account, '' for the platform's own. `progress_file` belongs to that account."""

    lists: Lists
    event_log: EventAppender
    account: str
    progress_file: Path
    clock: Callable[[], datetime]

    async def run(self, since: datetime, say: Callable[[int, int | None], None]) -> ImportReport:
        """Raises ApiTrouble, LogUnavailable, ProgressUnreadable. What was appended by then stays; run it again."""
        report, at = ImportReport(), self._progress()
        names = [part.name for part in parts(since)]
        if at is not None:
            report.resumed_at, after = at["part"], at["after"]
            since = datetime.fromtimestamp(at["since"], since.tzinfo)
        first = names.index(report.resumed_at) if report.resumed_at is not None else 0
        for number, part in enumerate(parts(since)[first:]):
            cursor = after if number == 0 and at is not None else None
            while True:
                page = await self.lists.page(part.path, part.params, self.account, after=cursor)
                await self._append(part, page, report)
                say(report.read.total(), None)
                if not page.has_more:
                    break
                cursor = page.items[-1].id
                self._store({"part": part.name, "after": cursor, "since": int(since.timestamp())})
            if part.name != names[-1]:
                following = names[names.index(part.name) + 1]
                self._store({"part": following, "after": None, "since": int(since.timestamp())})
        self.progress_file.unlink(missing_ok=True)
        return report

    async def _append(self, part: Part, page: Page, report: ImportReport) -> None:
        entries: list[Entry] = []
        for item in page.items:
            report.read[part.name] += 1
            obj = orjson.loads(item.text)
            objects = [obj]
            if part.name == "customers" and (card := await self._default_card(obj)) is not None:
                obj["invoice_settings"]["default_payment_method"] = card["id"]
                objects.append(card)
                report.read["default cards"] += 1
            made = [entry for one in objects for entry in self._entries(one, page)]
            if any(len(entry.value) > _LARGEST for entry in made):
                report.too_large += 1
                continue
            entries += made
        if entries:
            await append(self.event_log, entries)
            report.appended += len(entries)

    async def _default_card(self, customer: dict[str, Any]) -> dict[str, Any] | None:
        settings = customer.get("invoice_settings")
        card = settings.get("default_payment_method") if isinstance(settings, dict) else None
        if isinstance(card, str):  # not expanded
            card = await self.lists.one(f"/v1/payment_methods/{card}", self.account)
        return card if isinstance(card, dict) else None

    def _entries(self, obj: dict[str, Any], page: Page) -> list[Entry]:
        livemode = self.lists.mode.livemode
        return entries_of(obj, page, account=self.account, livemode=livemode, now=self.clock())

    def _progress(self) -> dict[str, Any] | None:
        try:
            found = orjson.loads(self.progress_file.read_bytes())
            return {"part": str(found["part"]), "after": found["after"], "since": int(found["since"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise ProgressUnreadable(f"{self.progress_file} is not readable: use --restart") from None

    def _store(self, progress: dict[str, Any]) -> None:
        self.progress_file.parent.mkdir(parents=True, exist_ok=True)
        written = self.progress_file.with_suffix(".new")
        written.write_bytes(orjson.dumps(progress))
        written.replace(self.progress_file)
