"""Asks the brokers, before a process starts, whether its user may do what the process needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess

_COORDINATOR_S = 30.0

READ = AclOperation.READ
WRITE = AclOperation.WRITE


def check_access(access: KafkaAccess, group: str, topics: Mapping[str, Iterable[AclOperation]]) -> None:
    """Checks the ACLs of existing topics, and READ of the consumer group.

    Raises LogUnavailable, whose message names the operation and the topic or group. Without an authorizer the brokers
    allow everything.
    """
    admin = client.admin(access)
    requests = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=client.TIMEOUT_S
    )
    for name, future in requests.items():
        with client.log_errors(access, name):
            allowed = client.answer_of(future).authorized_operations
        for operation in topics[name]:
            _insist(allowed, operation, f"topic {name}")
    with client.log_errors(access, f"group {group}"):
        allowed = _allowed_on_group(admin, group)
    _insist(allowed, READ, f"group {group}")


def _allowed_on_group(admin: AdminClient, group: str) -> list[AclOperation] | None:
    """Retries, because a broker that has just started does not coordinate any group for a while."""
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        described = admin.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=client.TIMEOUT_S
        )
        try:
            found: list[AclOperation] | None = client.answer_of(described[group]).authorized_operations
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED or time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return found


def _insist(allowed: Iterable[AclOperation] | None, operation: AclOperation, what: str) -> None:
    if allowed is not None and operation not in allowed:
        raise LogUnavailable(f"an ACL is missing (docs/operations.md lists them): {operation.name} on {what}")
