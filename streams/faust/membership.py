"""A worker's place in its group: static where it has a name, so that a crash costs its restart and no more.

Named (`BILLING_MEMBER_ID`, Kafka's group.instance.id), a worker that died and is back within the session timeout has
its partitions again at once, and nobody else notices. But a named member's client does not tell the group when it stops
for good, and its partitions would wait for the timeout (aiokafka, as Kafka's own). Here it tells: a planned stop hands
them over.
"""

from __future__ import annotations

from typing import Any

import faust


def leave_for_good(app: faust.App) -> None:
    """From now on the consumer's end takes it out of the group, named or not. To be called before `app.stop`."""
    thread: Any = getattr(app.consumer, "_thread", None)
    consumer = getattr(thread, "_consumer", None)
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is not None:
        # With a name aiokafka keeps silent; its member id is enough for the brokers.
        coordinator._group_instance_id = None
