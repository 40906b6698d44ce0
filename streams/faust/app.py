"""Builds the Faust application of a consumer (worker, analytics): it consumes `billing.events` with one agent.

Options that differ from Faust's defaults have their reason here; the measurements are in docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
from faust.tables import TableManager

from schemas.settings import Settings
from streams.faust.broker import broker_options
from streams.faust.chunks import ChunkTransport, Resume
from streams.faust.header_names import read_any_header_name
from streams.faust.sensor import KafkaSensor

_HEARTBEAT_S = 0.5
"""Seconds between heartbeats. A member learns of a rebalance from the response to its heartbeat, and all members pause
until the last one knows. With Kafka's 3 s, or a quarter of the session timeout, they pause for that time
(docs/scaling.md)."""
_CHUNKS_WAITING = 2
"""Chunks queued between fetch and agent, besides those in flight. They use memory, and a rebalance discards them."""


class Tables(TableManager):
    """Faust's tables, without the second that it waits at each start for tables that are declared late.

    Those of this system are declared before the start, and the consumer subscribes only after `_update_channels`.
    """

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class App(faust.App):
    """Faust's app, with queues that keep their records when the flow resumes (faust-streaming issues 316, 596, 606).

    After recovery Faust resumes the partitions, then seeks to the committed offsets, then resumes the flow, which
    empties the streams' queues. Records fetched before that last step would be discarded and not read again. Here the
    queues keep them; records that the seek reads a second time are duplicates.
    """

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:  # noqa: ARG002  # Faust's name and parameter
        return super().FlowControlQueue(maxsize, clear_on_resume=False)


def group_of(prefix: str, streams: frozenset[str]) -> str:
    """Returns the consumer group, also Faust's application id: one for all streams, or one per set of named streams."""
    return f"{prefix}.worker" if not streams else f"{prefix}.worker." + "-".join(sorted(streams))


def create_app(settings: Settings, group: str, partitions: int) -> App:
    """Returns an app that is not connected yet. `partitions` is the partition count of the events topic."""
    datadir = Path(settings.state_dir) / "faust"
    datadir.mkdir(parents=True, exist_ok=True)
    read_any_header_name()
    app = App(
        group,
        **broker_options(settings.kafka),
        datadir=datadir,
        TableManager=Tables,
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
        broker_session_timeout=settings.session_s,  # a dead worker's partitions move after this long
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
    app.sensors.add(KafkaSensor())
    return app


def attach(
    app: App,
    run: Callable[[Any], Awaitable[None]],
    topic: str,
    on_assigned: Callable[[set[int]], None] | None = None,
    on_revoked: Callable[[], None] | None = None,
    resume: Resume | None = None,
    removed: Callable[[str, int], None] | None = None,
) -> None:
    """Makes `run` consume the stream of `topic`. `on_assigned` gets the assigned partitions after each rebalance, and
    `on_revoked` is called before partitions move. `resume` may replace committed offsets by lower ones, where the
    database has less. `removed` gets topic and partition when Kafka has deleted records before they were read.
    """
    transport = app.transport
    if not isinstance(transport, ChunkTransport):
        raise TypeError("the app must come from create_app")
    transport.resume, transport.removed = resume, removed
    channel = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    channel.maxsize = _CHUNKS_WAITING  # the `maxsize` argument of `app.topic` has no effect

    @app.agent(channel, name="events", concurrency=1)
    async def events(stream: Any) -> None:
        await run(stream)

    if on_assigned is not None:

        @app.on_partitions_assigned.connect
        async def assigned(_app: Any, /, *args: Any, **_: Any) -> None:
            (assignment,) = args
            on_assigned({tp.partition for tp in assignment if tp.topic == topic})

    if on_revoked is not None:

        @app.on_partitions_revoked.connect
        async def revoked(_app: Any, /, *_args: Any, **_: Any) -> None:
            on_revoked()
