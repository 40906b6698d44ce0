"""Reconciliations and audits that people ask for in the console, as the scheduler reads them from the job's filter.

The console does not run them: only the scheduler has the key to Stripe's API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

RECONCILE, RECONCILE_DRY, AUDIT = "reconcile", "reconcile, dry run", "audit"
CHECKS = (RECONCILE, RECONCILE_DRY, AUDIT)
"""The actions of these jobs."""

MOST_DAYS: Mapping[str, int] = {RECONCILE: 30, RECONCILE_DRY: 30, AUDIT: 90}
"""How many days back each may begin. Stripe lists events for 30 days, and objects without such a limit."""

DAYS: Mapping[str, int] = {RECONCILE: 1, RECONCILE_DRY: 1, AUDIT: 7}
"""How many days back the window begins by default."""


@dataclass(frozen=True, slots=True)
class AskedCheck:
    """What to check: the last `days`, or for a reconciliation without `days` since the last complete run."""

    days: int | None = None
    all_accounts: bool = False

    def days_again(self, asked_at: datetime, now: datetime) -> int | None:
        """Returns for how many days to ask now to begin no later than this check, as far as that is possible."""
        since = self.since(asked_at)
        return None if since is None else -((since - now) // timedelta(days=1))

    def since(self, asked_at: datetime) -> datetime | None:
        """Returns where the window begins, the same for each run of a job."""
        return asked_at - timedelta(days=self.days) if self.days is not None else None

    def as_filter(self) -> dict[str, Any]:
        """Returns it as it is stored with the job and in the audit log."""
        days = {"days": self.days} if self.days is not None else {}
        return days | ({"all_accounts": True} if self.all_accounts else {})

    @classmethod
    def of_filter(cls, stored: Mapping[str, Any]) -> AskedCheck:
        """Returns what was stored. Raises ValueError for names that are not those of a check."""
        if unknown := stored.keys() - {"days", "all_accounts"}:
            raise ValueError(f"the job's filter has {', '.join(sorted(unknown))}")
        days = stored.get("days")
        return cls(int(days) if days is not None else None, bool(stored.get("all_accounts")))
