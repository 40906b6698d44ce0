"""`billing topics --repartition`: gives the topics more partitions, and moves what is unread to where it belongs.

    stopped? ─▶ grow events and dead letters ─▶ append unread records again, by time ─▶ compare the order per customer
             ─▶ positions and offsets to the end of the old places ─▶ grow the changelogs

With another count a customer's next events hash to another partition, so unread events in the old one could be applied
after them. They are appended again, in the order of their arrival, before any new one. The changelogs grow last: until
then no worker starts, and an interrupted run is repeated from its beginning. Copies are duplicates for the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewPartitions

from eventlog import client
from eventlog.groups import Groups
from eventlog.history import HistoryReader
from eventlog.topic_settings import TopicIdentity
from eventlog.topics import TopicsUnusable, changelog_of, partition_counts
from recovery.repartition.order import KeyOrder
from schemas.errors import LogUnavailable
from schemas.record import Record, writable
from schemas.settings import NAMED_SESSION_S, InvalidSettings, Settings
from sinks.postgres.positions import Position
from sinks.postgres.store import Store

_QUIET_S = 5.0
"""Seconds without a new record after which the intake counts as stopped."""
_EMPTY_S = 5.0
"""Seconds after the session timeout until which a group may have the member of a worker that was killed."""
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Repartitioned:
    """What was done. `moved` records of `customers` keys were appended again."""

    before: int
    partitions: int
    moved: int
    customers: int


class Repartition:
    """One run. Raises TopicsUnusable if something still runs or the order is not kept.

    Raises LogUnavailable and StoreUnavailable too; the run is then repeated from its beginning.
    """

    def __init__(self, settings: Settings, partitions: int, *, quiet_s: float = _QUIET_S) -> None:
        self._settings = settings
        self._partitions = partitions
        self._quiet_s = quiet_s
        self._groups = Groups(settings.kafka)
        self._topic = settings.events_topic
        self._earlier: dict[str, set[int]] = {}
        """By group: the partitions whose position is of an earlier topic with this name."""

    async def run(self) -> Repartitioned:
        """Returns once all topics have the count, and every unread record is in its partition."""
        settings, topic = self._settings, self._topic
        counts = await asyncio.to_thread(partition_counts, settings)
        if topic not in counts or settings.dead_topic not in counts:
            raise InvalidSettings(f"there is no topic {topic} or {settings.dead_topic}: run `billing topics` first")
        known = await asyncio.to_thread(self._groups.names, settings.topic_prefix)
        groups = sorted({*known, f"{settings.topic_prefix}.worker"})  # Kafka forgets a group that is long unused
        own = (topic, settings.dead_topic, settings.changes_topic, *(changelog_of(group) for group in groups))
        present = {name: counts[name] for name in own if name in counts}
        if more := [f"{name} has {count}" for name, count in present.items() if count > self._partitions]:
            raise TopicsUnusable(
                f"{', '.join(more)} partitions, and Kafka can't remove any: fewer than that need a new topic prefix "
                "(docs/scaling.md)"
            )
        if all(count == self._partitions for count in present.values()):
            return Repartitioned(self._partitions, self._partitions, 0, 0)
        await asyncio.to_thread(self._refuse_while_running, groups)
        topic_id = await asyncio.to_thread(TopicIdentity(settings.kafka, topic).read)
        if topic_id is None:
            raise TopicsUnusable(f"topic {topic} was deleted meanwhile")
        starts = await self._starts(groups, range(counts[topic]), topic_id)
        await asyncio.to_thread(self._grow, (topic, settings.dead_topic))
        boundary, moved = await asyncio.to_thread(self._move, starts)
        await self._pass_over(groups, boundary, topic_id)
        await asyncio.to_thread(self._grow, tuple(present))
        return Repartitioned(counts[topic], self._partitions, moved.records, moved.keys)

    # -- is everything stopped? ------------------------------------------------------------------------------------

    def _refuse_while_running(self, groups: list[str]) -> None:
        deadline = time.monotonic() + max(self._settings.session_s, NAMED_SESSION_S) + _EMPTY_S
        while running := self._groups.members(groups):
            if time.monotonic() > deadline:
                names = ", ".join(f"{name} ({count})" for name, count in running.items())
                raise TopicsUnusable(f"consumer groups have members: {names}; stop workers and analytics first")
            time.sleep(0.5)
        before = self._ends({})
        time.sleep(self._quiet_s)
        if (came := sum(self._ends({}).values()) - sum(before.values())) > 0:
            raise TopicsUnusable(
                f"{came} records arrived within {self._quiet_s:g} s: stop gateways, scheduler and dispatcher first"
            )

    def _ends(self, starts: Mapping[int, int]) -> dict[int, int]:
        reader = HistoryReader(self._settings.kafka, self._topic, starts=starts or None)
        try:
            return {partition: stretch.end for partition, stretch in reader.stretches.items()}
        finally:
            reader.close()

    # -- what is unread? -------------------------------------------------------------------------------------------

    async def _starts(self, groups: list[str], partitions: range, topic_id: str) -> dict[int, int]:
        """Returns the first offset that some group has not read, by partition.

        A group whose position is of an earlier topic has read nothing of this one, whatever Kafka kept of its offsets.
        """
        starts: dict[int, int] = {}
        ends = await asyncio.to_thread(self._ends, {})
        store = await Store.connect(self._settings.database_url, pool_size=1)
        try:
            for group in groups:
                committed = await asyncio.to_thread(self._groups.committed, group, self._topic, partitions)
                async with store.transaction([]) as transaction:
                    stored = await transaction.positions(group, self._topic, partitions)
                for partition in partitions:
                    at, applied = committed.get(partition, 0), stored.get(partition)
                    if applied is not None and _is_of_earlier(applied, topic_id, ends[partition]):
                        self._earlier.setdefault(group, set()).add(partition)
                        at, applied = 0, None
                    if applied is not None and applied.next_offset < at:
                        raise TopicsUnusable(
                            f"{self._topic}/{partition}: the database has reached {applied.next_offset}, and {group} "
                            f"has committed {at}: let its workers catch up before the count changes"
                        )
                    at = max(at, applied.next_offset if applied is not None else 0)
                    starts[partition] = min(starts.get(partition, at), at)
        finally:
            await store.close()
        return starts

    # -- grow and move ---------------------------------------------------------------------------------------------

    def _grow(self, names: tuple[str, ...]) -> None:
        admin = client.admin(self._settings.kafka)
        counts = partition_counts(self._settings)
        for name in names:
            if counts[name] >= self._partitions:
                continue
            with client.log_errors(self._settings.kafka, f"topic {name}"):
                try:
                    growing = admin.create_partitions(
                        [NewPartitions(name, self._partitions)],
                        operation_timeout=client.TIMEOUT_S,
                        request_timeout=client.TIMEOUT_S,
                    )
                    client.answer_of(growing[name])
                except KafkaException as error:
                    if client.is_refused_topic(error):
                        raise TopicsUnusable(f"topic {name}: {error.args[0].str()}") from None
                    raise
        deadline = time.monotonic() + client.TIMEOUT_S
        while any(partition_counts(self._settings).get(name, 0) < self._partitions for name in names):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"the brokers do not list {self._partitions} partitions of {', '.join(names)}")
            time.sleep(0.1)

    def _move(self, starts: Mapping[int, int]) -> tuple[dict[int, int], KeyOrder]:
        """Appends the unread records again. Returns the ends of the partitions before that, and what was moved."""
        reader = HistoryReader(self._settings.kafka, self._topic, starts=starts)
        moved = KeyOrder()
        try:
            boundary = self._ends({})
            if changed := [p for p, stretch in reader.stretches.items() if boundary[p] != stretch.end]:
                raise TopicsUnusable(f"records arrive in partition {changed[0]}: stop gateways, scheduler, dispatcher")
            producer = _Copier(self._settings, self._partitions)
            while records := reader.read(_AT_ONCE):
                producer.append(records)
                moved.add(records)
        finally:
            reader.close()
        self._compare(boundary, moved)
        return boundary, moved

    def _compare(self, boundary: Mapping[int, int], moved: KeyOrder) -> None:
        """Reads the copies, which must be all records after the boundary. Raises TopicsUnusable if they are not."""
        reader = HistoryReader(self._settings.kafka, self._topic, starts=boundary)
        arrived = KeyOrder()
        try:
            while records := reader.read(_AT_ONCE):
                arrived.add(records)
        finally:
            reader.close()
        if arrived.scattered or arrived.records != moved.records or (wrong := moved.differing(arrived)):
            what = (
                f"{len(arrived.scattered)} customers are in two partitions"
                if arrived.scattered
                else f"{arrived.records} records arrived instead of {moved.records}"
                if arrived.records != moved.records
                else f"the events of {wrong} customers are in another order"
            )
            raise TopicsUnusable(f"{what}: something still writes; stop it and run this again before any worker starts")

    async def _pass_over(self, groups: list[str], boundary: Mapping[int, int], topic_id: str) -> None:
        """Ends each group's work in the old places: first in the database, which is the authority, then on Kafka."""
        reached = {partition: end for partition, end in boundary.items() if end > 0}
        if not reached:
            return
        store = await Store.connect(self._settings.database_url, pool_size=1)
        try:
            for group in groups:
                if group != f"{self._settings.topic_prefix}.analytics":
                    earlier = {partition: boundary[partition] for partition in self._earlier.get(group, ())}
                    places = [(self._topic, partition) for partition in reached.keys() | earlier.keys()]
                    async with store.transaction(places) as transaction:
                        await transaction.restart(group, self._topic, topic_id, earlier)
                        await transaction.advance(group, self._topic, reached)
                await asyncio.to_thread(self._groups.commit, group, self._topic, reached)
        finally:
            await store.close()


def _is_of_earlier(position: Position, topic_id: str, end: int) -> bool:
    """Whether the position is of another topic with the same name. One without an id shows it only after the end."""
    return position.next_offset > end if position.topic_id is None else position.topic_id != topic_id


class _Copier:
    """Appends records with their key, headers and time. A client of its own: it must know the new partition count."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._settings = settings
        self._topic = settings.events_topic
        self._failed: list[KafkaError] = []
        self._producer = client.producer(settings.kafka, client_id="billing-repartition")
        deadline = time.monotonic() + client.TIMEOUT_S
        with client.log_errors(settings.kafka, self._topic):
            while (
                len(self._producer.list_topics(self._topic, timeout=client.TIMEOUT_S).topics[self._topic].partitions)
                < partitions
            ):
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"{self._topic}: the brokers do not list {partitions} partitions")
                time.sleep(0.1)

    def append(self, records: list[Record]) -> None:
        """Returns after all in-sync replicas have the records. Raises LogUnavailable."""
        with client.log_errors(self._settings.kafka, self._topic):
            for record in records:
                self._producer.produce(
                    self._topic,
                    key=record.key,
                    value=record.value,
                    headers=list(writable(record.raw_headers)),
                    timestamp=max(0, round(record.timestamp * 1000)),
                    on_delivery=self._report,
                )
            left = self._producer.flush(client.TIMEOUT_S + 1)
        if left or self._failed:
            reason = client.cause_of(self._settings.kafka, self._failed[0]) if self._failed else "no answer"
            raise LogUnavailable(f"{self._topic} did not take all records: {reason}; run this again")

    def _report(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error)
