"""Compares what Kafka claims that a group has applied with what the database has (docs/decisions.md 5).

    assignment ─▶ committed offset > position ─▶ drop settled ids, withhold mails, read again from the position
               ─▶ another topic of that name  ─▶ read it from its first offset
    batch      ─▶ position < the last one     ─▶ DatabaseBehind: the process notes in the database how far it had come,
                                                 ends, and compares at its next start

So a database restored to any point in time catches up from the log by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from schemas.errors import DatabaseBehind, StoreUnavailable
from schemas.record import Record
from sinks.postgres.positions import Position
from sinks.postgres.store import Store, Transaction

log = structlog.get_logger(__name__)

Place = tuple[str, int]

_NOTE_S = 10.0
"""Seconds to note what is lost, before the process ends without it."""


class Positions:
    """The positions of one group's worker. `standing` has the highest offset known to be applied, by partition."""

    def __init__(
        self,
        store: Store,
        group: str,
        drop: Callable[[set[int]], None] = lambda _: None,
        topic_ids: Mapping[str, str] | None = None,
    ) -> None:
        """`drop` is called with partitions whose settled ids the database does not have.

        `topic_ids` are the ids that Kafka gave the topics at their creation; without one, a new topic is recognized by
        its length.
        """
        self._store = store
        self._drop = drop
        self._topic_ids = topic_ids or {}
        self.group = group
        self.standing: dict[Place, int] = {}
        self.doubted: dict[Place, int] = {}
        """The log's end at the assignment, by partition. For records before it the ledger decides, not the table of
        settled ids: it may know events that a restored database lacks, even if an operator moved the group's offsets.
        """
        self._reread: dict[Place, int] = {}
        """The greatest `reread_until` that the database had, by partition. A backup from before has a lower one or
        none: after a second restore the database does not say which mails an earlier copy may have sent.
        """
        self._gaps: set[Place] = set()
        """Partitions with records that Kafka deleted unread, until the transaction that passes over them commits."""
        self._noted: set[Place] = set()
        """Those of them that a transaction has written, unless another gap was reported since."""

    def removed(self, topic: str, partition: int) -> None:
        """Notes with the partition's next batch that Kafka deleted records before it, for the scheduler to fetch."""
        self._gaps.add((topic, partition))
        self._noted.discard((topic, partition))

    async def resume(
        self, topic: str, committed: Mapping[int, int | None], begins: Mapping[int, int], ends: Mapping[int, int]
    ) -> dict[int, int]:
        """Returns the offsets at which to read instead, by partition, where the database is behind or the topic is new.

        `committed` has the group's committed offsets (None: none yet), `begins` and `ends` the log's first and next
        offsets.
        Raises StoreUnavailable.
        """
        async with self._store.transaction([(topic, partition) for partition in committed]) as transaction:
            stored = await transaction.positions(self.group, topic, committed)
            identity = await transaction.identity()
            is_older = identity is None or identity.had_events
            moved: dict[int, Position] = {}
            behind: dict[int, Position] = {}
            forgotten: dict[int, Position] = {}
            topic_id = self._topic_ids.get(topic)
            recreated = {
                partition: begins[partition]
                for partition, at in stored.items()
                if topic_id is not None and at.topic_id not in (None, topic_id)
            }
            for partition, offset in committed.items():
                at = stored.get(partition)
                if partition in recreated:
                    at = Position(begins[partition])
                elif offset is None or (at is not None and at.next_offset > max(offset, ends[partition])):
                    if at is not None and at.next_offset > ends[partition]:  # the topic was created again
                        moved[partition] = Position(offset or begins[partition])
                elif at is None and is_older:  # the database is older than its positions: take Kafka's word once
                    moved[partition] = Position(offset)
                elif (at.next_offset if at else 0) < offset:
                    start = max(at.next_offset if at else 0, begins[partition])
                    moved[partition] = behind[partition] = Position(start, offset)
                self.doubted[topic, partition] = ends[partition]
                self.standing[topic, partition] = (moved.get(partition) or at or Position(0)).next_offset
                if partition in recreated:
                    self._reread.pop((topic, partition), None)
                elif self._has_forgotten(topic, partition, at or Position(0)):
                    until = max(self._reread[topic, partition], offset or 0)
                    moved[partition] = forgotten[partition] = Position(self.standing[topic, partition], until)
            # What the log has lost, only Stripe has. Noted first: moving a position also changes its time.
            lost = [
                partition
                for partition in behind
                if partition in stored and stored[partition].next_offset < begins[partition]
            ]
            await transaction.note_gap(self.group, topic, [*recreated, *lost])
            await transaction.rewind(self.group, topic, moved)
            if topic_id is not None:
                await transaction.restart(self.group, topic, topic_id, recreated)
                await transaction.bind(self.group, topic, topic_id, committed)
        for partition in committed.keys() - recreated.keys():
            for position in (stored.get(partition), moved.get(partition)):
                self._remember(topic, partition, position)
        if recreated:
            log.error(
                "worker.topic_recreated",
                action="worker.topic_recreated",
                group=self.group,
                topic=topic,
                partitions=sorted(recreated),
                reason="the topic was deleted and created again: reading it from its beginning. billing reconcile "
                "fetches the events that were lost with the old one",
            )
        if behind:
            self._drop(set(behind))
        if noticed := behind | forgotten:
            log.error(
                "worker.database_behind",
                action="worker.database_behind",
                group=self.group,
                reason="the database has less than the group has committed: it was restored, replaced or promoted. "
                "Reading again from its positions; mails of these events are withheld",
                partitions="; ".join(
                    f"{partition}: {at.next_offset} instead of {at.reread_until}"
                    for partition, at in sorted(noticed.items())
                ),
            )
        return {partition: position.next_offset for partition, position in behind.items()} | recreated

    async def check(self, transaction: Transaction, records: Sequence[Record]) -> dict[Place, int]:
        """Returns, by (topic, partition), the offset before which a record may have been applied by a lost copy.

        Raises DatabaseBehind if the database has less than this worker has committed.
        """
        partitions: dict[str, set[int]] = {}
        for record in records:
            partitions.setdefault(record.topic, set()).add(record.partition)
        until: dict[Place, int] = {}
        for topic, of_topic in partitions.items():
            stored = await transaction.positions(self.group, topic, of_topic)
            for partition in of_topic:
                at = stored.get(partition, Position(0))
                self._compare(topic, partition, at)
                self._remember(topic, partition, at)
                if at.reread_until is not None:
                    until[topic, partition] = at.reread_until
            await self._note_gaps(transaction, topic, of_topic)
        return until

    async def look(self) -> None:
        """Compares all partitions, for a worker without traffic. Raises DatabaseBehind, StoreUnavailable."""
        standing, reread = dict(self.standing), dict(self._reread)
        async with self._store.transaction([]) as transaction:
            for topic in {topic for topic, _ in standing}:
                mine = [partition for name, partition in standing if name == topic]
                stored = await transaction.positions(self.group, topic, mine)
                for partition in mine:
                    place, at = (topic, partition), stored.get(partition, Position(0))
                    wanted = min(standing[place], self.standing.get(place, 0))
                    if at.next_offset < wanted:  # `min`: an assignment may have moved it back meanwhile
                        raise _behind(topic, partition, at.next_offset, wanted)
                    until = min(reread.get(place, 0), self._reread.get(place, 0))
                    if max(at.next_offset, at.reread_until or 0) < until:
                        raise _forgotten(topic, partition, at, until)

    async def note_lost(self) -> None:
        """Notes in the database up to where a lost copy had applied the partitions, so that no mail leaves twice.

        Call it after DatabaseBehind, before the process ends. Kafka's committed offsets are up to a second older. Never
        raises for want of Postgres: the next start then has only Kafka's word.
        """
        try:
            async with asyncio.timeout(_NOTE_S):
                await self._note_lost(
                    {place: max(offset, self._reread.get(place, 0)) for place, offset in self.standing.items()}
                )
        except (StoreUnavailable, TimeoutError) as error:
            log.warning(
                "worker.lost_not_noted",
                action="worker.lost_not_noted",
                group=self.group,
                error=str(error),
                reason="mails of the last second before the restore may leave twice",
            )

    async def _note_lost(self, applied: Mapping[Place, int]) -> None:
        async with self._store.transaction(sorted(applied)) as transaction:
            identity = await transaction.identity()
            is_older = identity is None or identity.had_events
            for topic in sorted({topic for topic, _ in applied}):
                reached = {partition: offset for (name, partition), offset in applied.items() if name == topic}
                stored = await transaction.positions(self.group, topic, reached)
                known = reached if not is_older else stored  # `resume` takes Kafka's word for the others
                at = {partition: stored.get(partition, Position(0)).next_offset for partition in known}
                lost = {
                    partition: Position(offset, reached[partition])
                    for partition, offset in at.items()
                    if offset < reached[partition]
                }
                await transaction.rewind(self.group, topic, lost)

    async def pass_over(self, topic: str, reached: Mapping[int, int]) -> None:
        """Moves the positions over records that change nothing here. Raises StoreUnavailable."""
        async with self._store.transaction([(topic, partition) for partition in reached]) as transaction:
            stored = await transaction.positions(self.group, topic, reached)
            for partition in reached:
                self._compare(topic, partition, stored.get(partition, Position(0)))
            await self._note_gaps(transaction, topic, reached)
            await transaction.advance(self.group, topic, reached)
        self.applied({topic: reached})

    def applied(self, reached: Mapping[str, Mapping[int, int]]) -> None:
        """Notes positions that are committed."""
        for topic, offsets in reached.items():
            for partition, offset in offsets.items():
                place = topic, partition
                if place in self._noted:
                    self._gaps.discard(place)
                self.standing[place] = max(self.standing.get(place, 0), offset)

    def keep_only(self, topic: str, partitions: set[int]) -> None:
        """Forgets partitions that are no longer assigned: their new owner moves them."""
        kept = {(topic, partition) for partition in partitions}
        for of_mine in (self.standing, self.doubted, self._reread):
            for place in [place for place in of_mine if place[0] == topic and place not in kept]:
                del of_mine[place]
        self._gaps = {place for place in self._gaps if place[0] != topic or place in kept}

    async def _note_gaps(self, transaction: Transaction, topic: str, partitions: Iterable[int]) -> None:
        if gaps := [partition for partition in partitions if (topic, partition) in self._gaps]:
            await transaction.note_gap(self.group, topic, gaps)
            self._noted |= {(topic, partition) for partition in gaps}

    def _compare(self, topic: str, partition: int, stored: Position) -> None:
        standing = self.standing.get((topic, partition), 0)
        if stored.next_offset < standing:
            raise _behind(topic, partition, stored.next_offset, standing)
        if self._has_forgotten(topic, partition, stored):
            raise _forgotten(topic, partition, stored, self._reread[topic, partition])

    def _has_forgotten(self, topic: str, partition: int, stored: Position) -> bool:
        """Whether the database no longer knows that an earlier copy had applied more than it has."""
        return max(stored.next_offset, stored.reread_until or 0) < self._reread.get((topic, partition), 0)

    def _remember(self, topic: str, partition: int, position: Position | None) -> None:
        """Call it with what the database has: a value of a transaction that did not commit would look like a loss."""
        if position is not None and position.reread_until is not None:
            place = topic, partition
            self._reread[place] = max(self._reread.get(place, 0), position.reread_until)


def _behind(topic: str, partition: int, stored: int, standing: int) -> DatabaseBehind:
    return DatabaseBehind(
        f"{topic}/{partition}: the database has reached {stored}, but {standing} was committed. It was restored or "
        "replaced; the next start reads again from its position"
    )


def _forgotten(topic: str, partition: int, stored: Position, until: int) -> DatabaseBehind:
    return DatabaseBehind(
        f"{topic}/{partition}: the database has reached {stored.next_offset} and no longer says that an earlier copy "
        f"had reached {until}. It was restored again while it was read again; the next start reads again from its "
        "position"
    )
