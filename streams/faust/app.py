"""Builds a worker's Faust application: it consumes `billing.events` with one agent and keeps one table.

Options that differ from Faust's defaults have their reason here; the measurements are in docs/architecture.md.
`Consumer`, `Transport` and `App` repair three faults of Faust that make a process skip events after a rebalance. See
faust-streaming issues 316, 596 and 606. tests/chaos/test_crash_points.py saw it: read up to 16, then 33, then from 80.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faust
import structlog
from faust.transport.drivers import aiokafka as driver

from schemas.settings import Settings
from streams.agent import Agent
from streams.faust.chunks import ChunkTransport
from streams.faust.seen import SeenEvents

_HEARTBEAT_S = 0.5
"""Seconds between heartbeats. A member learns of a rebalance from the response to its heartbeat, and all members pause
until the last one knows. With Kafka's 3 s, or a quarter of the session timeout, they pause for that time
(docs/scaling.md)."""
_CHUNKS_WAITING = 2
"""Chunks queued between fetch and agent, besides those in flight. They use memory, and a rebalance discards them."""


def group_of(prefix: str, streams: frozenset[str]) -> str:
    """Returns the consumer group, also Faust's application id: one for all streams, or one per set of named streams."""
    return f"{prefix}.worker" if not streams else f"{prefix}.worker." + "-".join(sorted(streams))


def create_app(settings: Settings, group: str, partitions: int) -> faust.App:
    """Returns an app that is not connected yet. `partitions` is the partition count of the events topic."""
    datadir = Path(settings.state_dir) / "faust"
    datadir.mkdir(parents=True, exist_ok=True)
    app = App(
        group,
        broker=f"kafka://{settings.kafka_bootstrap.replace(',', ';kafka://')}",
        datadir=datadir,
        store="memory://",  # no files that can become stale; the changelog is small
        autodiscover=False,
        web_enabled=False,  # Faust's own server listens on every interface and shows table contents
        topic_disable_leader=True,
        topic_partitions=partitions,
        topic_replication_factor=settings.replication_factor,
        key_serializer="raw",
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",  # `latest` loses records from before the group's first commit
        broker_commit_interval=1.0,
        broker_session_timeout=settings.session_timeout_s,  # a dead worker's partitions move after this long
        consumer_group_instance_id=settings.member_id or None,
        broker_heartbeat_interval=_HEARTBEAT_S,
        # Bytes per partition: one fetch then returns chunks of several partitions, which are processed in parallel.
        consumer_max_fetch_size=256 * 1024,
        broker_max_poll_interval=300.0,  # Faust's 1000 s would hide a stuck worker for a quarter of an hour
        broker_request_timeout=15.0,
        producer_acks=-1,
        producer_compression_type="lz4",
        producer_linger=0.005,
        producer_request_timeout=15.0,  # Faust's is 20 minutes
        producer_max_request_size=4_000_000,
        # Draining the streams before a rebalance would let one slow Postgres stall the whole group. The ledger and the
        # partition locks make a late batch harmless.
        stream_wait_empty=False,
        stream_buffer_maxsize=4096,
    )
    app.transport = ChunkTransport(app, settings.batch_size, settings.batch_within_s)
    return app


def attach(app: faust.App, agent: Agent, topic: str, seen: SeenEvents) -> None:
    """Makes `agent` consume `topic`, and drops table entries of partitions that are no longer assigned."""
    channel = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    channel.maxsize = _CHUNKS_WAITING  # the `maxsize` argument of `app.topic` has no effect

    @app.agent(channel, name="events", concurrency=1)
    async def events(stream: Any) -> None:
        await agent.run(stream)

    @app.on_partitions_assigned.connect
    async def assigned(_app: Any, /, *args: Any, **_: Any) -> None:
        (assignment,) = args
        seen.keep_only({tp.partition for tp in assignment if tp.topic == topic})


log = structlog.get_logger()


class Consumer(driver.Consumer):
    """Faust's consumer with two repairs. A `tp` is a topic with a partition.

    1. Faust takes acked offsets off its list before it commits them. If that commit is discarded or refused, they are
       gone, and later acks stay after a gap. Here they are put back.
    2. Faust takes any jump in the offsets for compaction and treats the missing offsets as done. This topic is not
       compacted: only records that retention removed may be missing. Any other hole stops the commits, so that nothing
       is lost, and the watchdog ends the worker.
    """

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
        """Restores the acks from `committed` (before the first commit: `offset` - 1) up to, excluding, `offset`."""
        self._committed_offset[tp] = committed
        missing = set(range(offset - 1 if committed is None else committed, offset)) - self._acked_index[tp]
        self._acked[tp].extend(missing)  # Faust sorts it before reading
        self._acked_index[tp].update(missing)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        earliest = (await self.earliest_offsets(tp)).get(tp)
        if earliest is not None and offset_to <= earliest:
            await super()._add_gap(tp, offset_from, offset_to)
            return
        log.warning(
            "offsets are missing",
            action="worker.hole",
            topic=tp.topic,
            partition=tp.partition,
            offset_from=offset_from,
            offset_to=offset_to,
        )


class Transport(driver.Transport):
    """Faust's transport with the repaired `Consumer`. Analytics uses it; the worker uses `ChunkTransport`."""

    Consumer = Consumer


class App(faust.App):
    """Faust's app on `Transport`, with queues that keep their records when the flow resumes.

    After recovery Faust resumes the partitions, then seeks to the committed offsets, then resumes the flow, which
    empties the streams' queues. Records fetched before that last step would be discarded and not read again. Here the
    queues keep them; records that the seek reads a second time are duplicates.
    """

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:  # noqa: ARG002  # Faust's name and parameter
        return super().FlowControlQueue(maxsize, clear_on_resume=False)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)
