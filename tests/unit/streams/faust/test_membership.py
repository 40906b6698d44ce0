"""A worker with a name of its own leaves its group when it is stopped, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]  # ships no types

from streams.faust.membership import leave_for_good


class _Coordinator(GroupCoordinator):  # type: ignore[misc]  # untyped base
    """aiokafka's, of which only the end is run: it notes what it would send."""

    def __init__(self) -> None:
        self.generation, self.group_id, self.member_id = 3, "billing.worker", "worker-1-abc"
        self._group_instance_id: str | None = "worker-1"
        self.sent: list[Any] = []

    async def _send_req(self, request: Any) -> None:
        self.sent.append(request)

    def reset_generation(self) -> None:
        """Nothing to go on with."""


def _app(coordinator: _Coordinator) -> Any:
    consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))
    return SimpleNamespace(consumer=consumer)


async def test_a_crash_keeps_its_place() -> None:
    """aiokafka says nothing for a member with a name: what comes back under it takes the place again."""
    coordinator = _Coordinator()
    await coordinator._maybe_leave_group()
    assert coordinator.sent == []


async def test_a_planned_stop_gives_it_up() -> None:
    """The others take its partitions over at once, not after the session timeout."""
    coordinator = _Coordinator()
    leave_for_good(_app(coordinator))
    await coordinator._maybe_leave_group()
    assert len(coordinator.sent) == 1


def test_a_worker_that_never_joined_has_nothing_to_leave() -> None:
    """Stopped before its consumer was up."""
    leave_for_good(SimpleNamespace(consumer=SimpleNamespace()))  # type: ignore[arg-type]  # as much of an app as there is
