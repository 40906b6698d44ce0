from __future__ import annotations

from dataclasses import replace

import pytest

from eventlog.topic_settings import DAY_MS, DescribedTopic, Needs, differences

_EVENTS = Needs(cleanup="delete", max_bytes=2_000_000, least_days=7, most_days=28, replicas=3)
_GOOD = {
    "cleanup.policy": "delete",
    "max.message.bytes": "2000000",
    "retention.ms": str(28 * DAY_MS),
    "retention.bytes": "-1",
    "min.insync.replicas": "2",
}


def _found(changes: dict[str, str], replicas: int = 3) -> DescribedTopic:
    return DescribedTopic("billing.events", "id", 12, replicas, _GOOD | changes)


def test_T18_a_topic_as_billing_topics_makes_it_fits() -> None:
    assert differences(_found({}), _EVENTS) == []


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("max.message.bytes", "1999999", "at least 2000000"),
        ("cleanup.policy", "compact", "delete"),
        ("cleanup.policy", "compact,delete", "delete"),
        ("retention.ms", str(6 * DAY_MS), f"at least {7 * DAY_MS} (7 days)"),
        ("retention.ms", str(29 * DAY_MS), f"at most {28 * DAY_MS} (28 days)"),
        ("retention.ms", "-1", f"at most {28 * DAY_MS} (28 days)"),
        ("retention.bytes", "1000000000", "-1 (a limit deletes unread records)"),
        ("min.insync.replicas", "1", "at least 2"),
        ("min.insync.replicas", "3", "2, so that one broker may be down"),
        ("min.insync.replicas", "4", "at most 3, or nothing can be stored"),
    ],
)
def test_T18_each_setting_that_does_not_fit_is_one_line(setting: str, value: str, wanted: str) -> None:
    found = _found({setting: value})
    assert differences(found, _EVENTS) == [f"billing.events: {setting} is {value}, wanted {wanted}"]


def test_T18_too_few_replicas_are_named_with_the_setting_that_asks_for_more() -> None:
    assert differences(_found({"min.insync.replicas": "1"}, 2), _EVENTS) == [
        "billing.events: replicas is 2, wanted 3 (BILLING_REPLICATION_FACTOR)",
        "billing.events: min.insync.replicas is 1, wanted at least 2",
    ]


def test_T18_without_the_right_to_read_the_configuration_only_replicas_are_compared() -> None:
    assert differences(replace(_found({}), config=None), _EVENTS) == []


def test_T18_one_broker_needs_one_replica_in_sync() -> None:
    assert differences(_found({"min.insync.replicas": "1"}, 1), replace(_EVENTS, replicas=1)) == []
    assert differences(_found({"min.insync.replicas": "2"}, 1), replace(_EVENTS, replicas=1)) == [
        "billing.events: min.insync.replicas is 2, wanted at most 1, or nothing can be stored"
    ]


def test_T18_a_changelog_is_compacted_and_may_delete_what_is_old() -> None:
    changelog = Needs(cleanup="compact")
    for policy in ("compact", "compact,delete", "delete,compact"):
        assert differences(_found({"cleanup.policy": policy}), changelog) == []
    assert differences(_found({"cleanup.policy": "delete"}), changelog) == [
        "billing.events: cleanup.policy is delete, wanted compact"
    ]
    assert differences(_found({"cleanup.policy": "compact,delete"}), _EVENTS) == [
        "billing.events: cleanup.policy is compact,delete, wanted delete"
    ]
