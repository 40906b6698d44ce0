"""The order of the test files: those that take longest come first, so that no worker begins one when the rest is done.

The order says nothing about how tests depend on each other: they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LONGEST = (
    "chaos/test_system.py",
    "e2e/test_restored_database.py",
    "e2e/test_gateway_process.py",
    "e2e/test_held_brake.py",
    "e2e/test_up.py",
    "e2e/test_runbook.py",
    "e2e/test_secured_kafka.py",
    "contract/console/test_browser.py",
    "e2e/test_topic_changes.py",
    "contract/sinks/email/test_refusals.py",
    "contract/sinks/postgres/test_store_load.py",
    "chaos/test_scale.py",
    "contract/recovery/test_audit.py",
    "chaos/test_crash_points.py",
    "contract/sinks/email/test_dispatcher_process.py",
    "contract/recovery/test_import.py",
    "contract/local/test_kafka.py",
    "e2e/test_readers.py",
    "contract/streams/test_histories.py",
    "contract/sinks/email/test_checks.py",
    "e2e/test_no_broker.py",
    "contract/streams/test_process.py",
    "e2e/test_least_privilege.py",
    "e2e/test_real_events.py",
    "e2e/test_pgbouncer_processes.py",
    "unit/streams/rules/test_access.py",
    "unit/oracle/test_mutations.py",
    "unit/test_further_lives.py",
    "unit/sinks/email/test_skeletons.py",
    "unit/sinks/email/test_own_mails.py",
    "unit/ops/test_cli.py",
    "unit/streams/rules/test_same_second.py",
    "unit/streams/rules/test_histories.py",
    "unit/oracle/test_stripe_lives.py",
    "unit/sinks/email/test_message.py",
    "unit/test_mail_lives.py",
    "unit/streams/rules/test_payment_histories.py",
    "unit/deploy/test_chart.py",
)
"""Below tests/, by the seconds that pytest's `--durations=0` adds up to: 30 and more, in the unit tests 2 and more."""

TESTS = Path(__file__).parent


def place_of(file: Path, files: Sequence[str] = LONGEST) -> int:
    """The place of a test file in the order. Files that are not listed share the last one."""
    name = file.relative_to(TESTS).as_posix() if file.is_relative_to(TESTS) else ""
    return files.index(name) if name in files else len(files)
