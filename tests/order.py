"""The order of the test files: those that take longest come first, so that no worker begins one when the rest is done.

The order says nothing about how tests depend on each other: they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LONGEST = (
    "e2e/test_restored_database.py",
    "chaos/test_system.py",
    "contract/recovery/test_import.py",
    "e2e/test_gateway_process.py",
    "e2e/test_runbook.py",
    "contract/console/test_browser.py",
    "e2e/test_secured_kafka.py",
    "e2e/test_topic_changes.py",
    "contract/recovery/test_audit.py",
    "e2e/test_up.py",
    "chaos/test_scale.py",
    "chaos/test_broken_deploy.py",
    "chaos/test_crash_points.py",
    "contract/local/test_kafka.py",
    "e2e/test_no_broker.py",
    "e2e/test_least_privilege.py",
    "contract/sinks/postgres/test_store_load.py",
    "contract/sinks/email/test_dispatcher_process.py",
    "contract/recovery/test_reconcile.py",
    "contract/streams/test_histories.py",
    "e2e/test_readers.py",
    "contract/recovery/test_audit_injected.py",
    "contract/console/test_actions.py",
    "contract/ops/test_exit_codes.py",
    "contract/recovery/test_rebuild.py",
    "contract/sinks/email/test_refusals.py",
    "contract/scheduler/test_asked_checks.py",
    "e2e/test_real_events.py",
    "contract/scheduler/test_scheduler.py",
    "contract/sinks/postgres/test_plans.py",
    "contract/recovery/test_replay.py",
    "e2e/test_pgbouncer_processes.py",
    "contract/recovery/test_plans.py",
    "contract/sinks/postgres/test_kept_plans.py",
    "unit/oracle/test_mutations.py",
    "unit/gateway/test_bounds.py",
    "unit/oracle/test_figures.py",
    "unit/test_further_lives.py",
    "unit/streams/rules/test_access.py",
    "unit/ops/runtime/test_watchdog.py",
    "unit/sinks/email/test_skeletons.py",
    "unit/oracle/test_stripe_lives.py",
    "unit/streams/rules/test_histories.py",
    "unit/ops/test_cli.py",
    "unit/sinks/email/test_conversation.py",
    "unit/deploy/test_chart.py",
    "unit/oracle/test_fold.py",
    "unit/test_mail_lives.py",
    "unit/streams/rules/test_payment_histories.py",
    "unit/streams/rules/test_same_second.py",
    "unit/streams/faust/test_pages.py",
    "unit/test_words.py",
    "unit/recovery/test_rebuild_comparison.py",
    "unit/test_field_lives.py",
)
"""Below tests/, by the seconds in the JUnit report of a whole run: 15 and more, in the unit tests 1.5 and more."""

TESTS = Path(__file__).parent


def place_of(file: Path, files: Sequence[str] = LONGEST) -> int:
    """The place of a test file in the order. Files that are not listed share the last one."""
    name = file.relative_to(TESTS).as_posix() if file.is_relative_to(TESTS) else ""
    return files.index(name) if name in files else len(files)
