"""What a check has found is counted once, over slices, accounts and restarts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recovery.audit.audit import AuditReport
from recovery.reconcile.report import ReconcileReport
from recovery.window import KEPT, Window, is_joined
from scheduler.check_progress import AuditProgress, ReconcileProgress

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def _report(account: str = "", fed: int = 0) -> ReconcileReport:
    return ReconcileReport(account, NOW - timedelta(days=1), NOW, listed=fed, missing=fed, fed=fed)


def test_a_report_counts_on_while_it_is_written() -> None:
    progress = ReconcileProgress({}, is_dry=False)
    assert progress.result == {}
    report = _report(fed=2)
    progress.note(report, is_complete=False)
    report.fed = 5
    assert (progress.count, progress.result["fed"]) == (5, 5)


def test_the_next_run_begins_from_what_is_stored() -> None:
    first = ReconcileProgress({}, is_dry=False)
    first.note(_report(fed=4), is_complete=True)
    first.note(_report("acct_1", 2), is_complete=False)
    second = ReconcileProgress(first.result, is_dry=False)
    second.begin()
    assert second.complete == {""}
    second.note(_report("acct_1", 3), is_complete=False)
    second.begin()
    second.note(_report("acct_1", 1), is_complete=True)
    assert second.count == 10
    assert second.complete == {"", "acct_1"}


def test_a_look_begins_an_account_again() -> None:
    first = ReconcileProgress({}, is_dry=True)
    first.note(_report(fed=0), is_complete=False)
    second = ReconcileProgress(first.result | {"missing": 7}, is_dry=True)
    report = _report()
    report.missing = 7
    second.note(report, is_complete=True)
    assert second.result["missing"] == 7


def test_an_audit_with_trouble_is_not_complete() -> None:
    progress = AuditProgress({})
    progress.note(AuditReport("", NOW - KEPT, NOW, counts={"events": 3}, differing=2, events_since=NOW))
    progress.note(AuditReport("acct_1", NOW - KEPT, NOW, trouble="no answer"))
    assert progress.complete == {""}
    assert (progress.count, progress.result["compared"]) == (2, 3)
    assert progress.result["accounts"][0]["events_since"] == NOW.isoformat()


def test_a_window_joins_on_if_it_leaves_no_gap() -> None:
    def joins(since: timedelta, settled: timedelta | None) -> bool:
        return is_joined(Window(NOW - since, NOW), NOW, NOW - settled if settled is not None else None)

    assert joins(timedelta(days=2), timedelta(days=2))
    assert not joins(timedelta(days=1), timedelta(days=2))
    assert joins(timedelta(days=1), None)
    assert not joins(timedelta(hours=23), None)
    assert joins(KEPT, timedelta(days=300)), "Stripe lists no older events"
