"""The Faust application of one worker: `billing.events` in, one agent, one table.

Every option that differs from Faust's default stands here with its reason; what was measured is in
docs/architecture.md.
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
"""A member learns of a rebalance from the answer to its heartbeat, and all the others stand still until the last one
knows. Kafka's 3 s, or a quarter of the session timeout, are that standstill (docs/scaling.md)."""
_CHUNKS_WAITING = 2
"""Between fetch and agent, beside those under way: what a rebalance throws away, and what memory holds."""


def group_of(prefix: str, streams: frozenset[str]) -> str:
    """The consumer group's name, which is also Faust's application id: one group for all streams, or one of its own."""
    return f"{prefix}.worker" if not streams else f"{prefix}.worker." + "-".join(sorted(streams))


def create_app(settings: Settings, group: str, partitions: int) -> faust.App:
    """An app that is not connected to anything yet. `partitions` are those the events topic really has."""
    datadir = Path(settings.state_dir) / "faust"
    datadir.mkdir(parents=True, exist_ok=True)
    app = App(
        group,
        broker=f"kafka://{settings.kafka_bootstrap.replace(',', ';kafka://')}",
        datadir=datadir,
        store="memory://",  # nothing on disk to go stale: the changelog is small
        autodiscover=False,
        web_enabled=False,  # Faust's own server listens on every interface and shows table contents
        topic_disable_leader=True,
        topic_partitions=partitions,
        topic_replication_factor=settings.replication_factor,
        key_serializer="raw",
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",  # `latest` loses what came before the group's first commit
        broker_commit_interval=1.0,
        broker_session_timeout=settings.session_timeout_s,  # a dead worker's partitions move after this long
        consumer_group_instance_id=settings.member_id or None,
        broker_heartbeat_interval=_HEARTBEAT_S,
        # Of each partition, so that a fetch brings chunks of several that can be worked on side by side.
        consumer_max_fetch_size=256 * 1024,
        broker_max_poll_interval=300.0,  # Faust's 1000 s would hide a stuck worker for a quarter of an hour
        broker_request_timeout=15.0,
        producer_acks=-1,
        producer_compression_type="lz4",
        producer_linger=0.005,
        producer_request_timeout=15.0,  # Faust's is 20 minutes
        producer_max_request_size=4_000_000,
        # Drained streams before a rebalance would make one slow Postgres stall the whole group; the ledger and the
        # partition locks make a late batch harmless.
        stream_wait_empty=False,
        stream_buffer_maxsize=4096,
    )
    app.transport = ChunkTransport(app, settings.batch_size, settings.batch_within_s)
    return app


def attach(app: faust.App, agent: Agent, topic: str, seen: SeenEvents) -> None:
    """Makes `agent` read `topic`, and the table follow the assignment."""
    channel = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    channel.maxsize = _CHUNKS_WAITING  # `app.topic` would take it and forget it

    @app.agent(channel, name="events", concurrency=1)
    async def events(stream: Any) -> None:
        await agent.run(stream)

    @app.on_partitions_assigned.connect
    async def assigned(_app: Any, /, *args: Any, **_: Any) -> None:
        (assignment,) = args
        seen.keep_only({tp.partition for tp in assignment if tp.topic == topic})


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
