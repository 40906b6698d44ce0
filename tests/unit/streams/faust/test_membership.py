"""A worker with a static member name leaves its group at a planned stop, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]  # ships no types

from streams.faust.membership import leave_for_good


class _Coordinator(GroupCoordinator):  # type: ignore[misc]  # untyped base
    """aiokafka's coordinator without a broker: only its close is run, and requests are recorded."""

    def __init__(self) -> None:
        self.generation, self.group_id, self.member_id = 3, "billing.worker", "worker-1-abc"
        self._group_instance_id: str | None = "worker-1"
        self.sent: list[Any] = []

    async def _send_req(self, request: Any) -> None:
        self.sent.append(request)

    def reset_generation(self) -> None:
        """Does nothing."""


def _app(coordinator: _Coordinator) -> Any:
    consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))
    return SimpleNamespace(consumer=consumer)


async def test_after_a_crash_the_membership_remains() -> None:
    """aiokafka sends no leave request for a static member. A process with the same name takes over its membership."""
    coordinator = _Coordinator()
    await coordinator._maybe_leave_group()
    assert coordinator.sent == []


async def test_a_planned_stop_leaves_the_group() -> None:
    """The other workers get its partitions at once, not after the session timeout."""
    coordinator = _Coordinator()
    leave_for_good(_app(coordinator))
    await coordinator._maybe_leave_group()
    assert len(coordinator.sent) == 1


def test_a_worker_that_never_joined_has_nothing_to_leave() -> None:
    """The worker was stopped before its consumer started."""
    leave_for_good(SimpleNamespace(consumer=SimpleNamespace()))  # type: ignore[arg-type]  # a minimal app
