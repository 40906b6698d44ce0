"""What a check asked for in the console has found so far: its page shows it, and the next run begins from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from recovery.audit.audit import AuditReport
from recovery.reconcile.report import ReconcileReport

_SHOWN = 20
"""Missing events that a result names."""

_COUNTS = ("listed", "on_the_way", "missing", "fed")


class CheckProgress(ABC):
    """The accounts of one check with their counts, from the `stored` result of the runs before."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self._accounts: dict[str, dict[str, Any]] = {one["account"]: dict(one) for one in stored.get("accounts", ())}
        self._examples: dict[str, dict[str, Any]] = {one["event_id"]: one for one in stored.get("examples", ())}
        self._before = dict(self._accounts)

    @property
    def complete(self) -> frozenset[str]:
        """The accounts that need not be read again."""
        return frozenset(account for account, one in self._accounts.items() if one.get("complete"))

    @property
    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What the job's page shows, and what the next run begins from; {} before the first account."""

    @property
    @abstractmethod
    def count(self) -> int:
        """What the audit log counts: events appended, or differences."""

    def begin(self) -> None:
        """Keeps what was counted, since a new run over the accounts that are left counts from 0."""
        self._before = dict(self._accounts)

    def _total(self, name: str) -> int:
        return sum(int(one.get(name, 0)) for one in self._accounts.values())

    def _listed(self) -> list[dict[str, Any]]:
        return list(self._accounts.values())


class ReconcileProgress(CheckProgress):
    """The progress of a reconciliation. A dry run begins an unfinished account again, so its counts do, too.

    What a run has appended before it ended counts as missing and appended, and the next run finds it on the way.
    """

    def __init__(self, stored: Mapping[str, Any], *, is_dry: bool) -> None:
        super().__init__(stored)
        self._is_dry = is_dry
        self._live: ReconcileReport | None = None

    def begin(self) -> None:
        self._take()
        self._live = None
        super().begin()

    def note(self, report: ReconcileReport, *, is_complete: bool) -> None:
        """Adds a report that is still being written: what it counts later is in the result, too."""
        self._live = report
        self._take()
        self._accounts[report.account]["complete"] = is_complete

    @property
    def result(self) -> dict[str, Any]:
        self._take()
        if not self._accounts:
            return {}
        examples = list(self._examples.values())[:_SHOWN]
        return {**{name: self._total(name) for name in _COUNTS}, "accounts": self._listed(), "examples": examples}

    @property
    def count(self) -> int:
        self._take()
        return self._total("fed")

    def _take(self) -> None:
        if (report := self._live) is None:
            return
        before = {} if self._is_dry else self._before.get(report.account, {})
        began = report.window_from.isoformat()
        self._accounts[report.account] = {
            "account": report.account,
            "from": min(before.get("from", began), began),
            "until": report.window_until.isoformat(),
            **{name: int(before.get(name, 0)) + count for name, count in report.counts.items()},
            "complete": self._accounts.get(report.account, {}).get("complete", False),
        }
        for each in report.examples[:_SHOWN]:
            created: datetime = each["created"]
            shown = {"event_id": each["event_id"], "type": each["type"], "created": created.isoformat()}
            self._examples.setdefault(each["event_id"], shown)


class AuditProgress(CheckProgress):
    """The progress of an audit, whose own rows have its counts."""

    def note(self, report: AuditReport) -> None:
        """Adds the report of an account, complete if it has no trouble."""
        since = {"events_since": report.events_since.isoformat()} if report.events_since is not None else {}
        self._accounts[report.account] = {
            "account": report.account,
            "run_id": report.run_id,
            "from": report.window_from.isoformat(),
            "until": report.window_until.isoformat(),
            "compared": sum(report.counts.values()),
            "differences": report.differing,
            "complete": report.trouble is None,
            **since,
        }

    @property
    def result(self) -> dict[str, Any]:
        if not self._accounts:
            return {}
        totals = {name: self._total(name) for name in ("compared", "differences")}
        return {**totals, "accounts": self._listed()}

    @property
    def count(self) -> int:
        return self._total("differences")
