"""Faust's consumer with three repairs, without which a worker passes by events after a rebalance.

1. When recovery ends, Faust resumes the partitions, then seeks to the committed offsets, then resumes the flow, which
   empties the streams' queues. What is fetched before that last step is thrown away and not read again: the worker goes
   on behind a hole. Here the queues keep what they have; what the seek brings a second time is a duplicate.
2. Faust takes acked offsets off its list before it commits them. Where that commit is discarded or refused they are
   gone, and the next acks stand behind a gap for good. Here they are put back.
3. Faust takes any jump in the offsets for compaction, and the missing ones for done. This topic is not compacted: only
   what retention has removed may be missing. Any other hole keeps the commit back, so that nothing is lost by it, and
   the watchdog ends the worker.

Seen in tests/chaos/test_crash_points.py: read up to 16, then 33, then on from 80. See also faust-streaming issues 316,
596 and 606.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faust
import structlog
from faust.transport.drivers import aiokafka as driver

log = structlog.get_logger()


class Consumer(driver.Consumer):
    """Faust's, repaired as above. A `tp` is a topic with a partition."""

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        did_commit = False
        try:
            did_commit = await super()._commit_offsets(offsets, start_new_transaction=start_new_transaction)
        finally:
            kept = set(self.assignment()) if did_commit else set()
            for tp, offset in offsets.items():
                if tp not in kept:
                    self._put_back(tp, before[tp], offset)
        return did_commit

    def _put_back(self, tp: Any, committed: int | None, offset: int) -> None:
        """Acks of `committed` (or of the last one, before the first commit) up to but without `offset`."""
        self._committed_offset[tp] = committed
        missing = set(range(offset - 1 if committed is None else committed, offset)) - self._acked_index[tp]
        self._acked[tp].extend(missing)  # sorted where it is read
        self._acked_index[tp].update(missing)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        earliest = (await self.earliest_offsets(tp)).get(tp)
        if earliest is not None and offset_to <= earliest:
            await super()._add_gap(tp, offset_from, offset_to)
            return
        log.warning(
            "a jump in the offsets",
            action="worker.hole",
            topic=tp.topic,
            partition=tp.partition,
            offset_from=offset_from,
            offset_to=offset_to,
        )


class Transport(driver.Transport):
    """Faust's, with the consumer above."""

    Consumer = Consumer


class App(faust.App):
    """Faust's, on the transport above, with queues that lose nothing when the flow is resumed."""

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:  # noqa: ARG002  # Faust's name and parameter
        return super().FlowControlQueue(maxsize, clear_on_resume=False)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)
