"""A worker's membership in its consumer group: static if the worker has a name, so that a crash costs only a restart.

The name is `BILLING_MEMBER_ID`, Kafka's group.instance.id. A named worker that dies and is back within the session
timeout gets its partitions back at once, without a rebalance. But the client of a named member does not leave the group
when it stops (aiokafka, like Kafka's own client), so its partitions would wait for the timeout. After `leave_for_good`,
a planned stop hands them over.
"""

from __future__ import annotations

from typing import Any

import faust


def leave_for_good(app: faust.App) -> None:
    """Makes the consumer leave the group when it stops, named or not. Call it before `app.stop`."""
    thread: Any = getattr(app.consumer, "_thread", None)
    consumer = getattr(thread, "_consumer", None)
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is not None:
        # With a name aiokafka does not send LeaveGroup. Without one it does, and the brokers need only the member id.
        coordinator._group_instance_id = None
