"""Turns a batch of records into facts, and updates the figures of the owners of new facts in one transaction.

records ─▶ facts ─▶ [ store those that are new ─▶ load the facts of their owners ─▶ figures ─▶ write differences ]
                    └────────────────────────── one transaction ─────────────────────────────────────────────┘

Of an owner with many facts only the newest are loaded, with the checkpoint of the others (running.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from analytics.compute import BEGINNING, figures_of, figures_since
from analytics.facts import fact_of, is_counted
from analytics.imported import is_imported
from analytics.invoices import changed_totals
from analytics.running import LOST, Checkpoint, Running, checkpoint, fingerprint, running_of
from analytics.store import FigureStore, FigureTransaction
from analytics.timeline import in_order, timeline
from schemas.errors import MalformedEvent, StoreRefused
from schemas.figures import FIGURE_KEYS, Fact, FactKind, Figure, Owner, PaymentFigure, PaymentTotal
from schemas.settings import Config

log = structlog.get_logger(__name__)


class Readable(Protocol):
    """The attributes of a record that are read here: of `consumer.Read`, or of a test's record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """The result of a batch: numbers of records, and `rows`, the number of rows of figures that changed."""

    passed: int = 0
    """Records without a fact, because of their type or their content."""
    facts: int = 0
    unreadable: int = 0
    rows: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.passed + other.passed,
            self.facts + other.facts,
            self.unreadable + other.unreadable,
            self.rows + other.rows,
        )


@dataclass(frozen=True, slots=True)
class Book:
    """Keeps the figures in `store`. `config` maps prices to plans."""

    store: FigureStore
    config: Config
    tail_most: int = 64
    """An owner with more facts after its checkpoint gets a new one. Its cost: about a tenth of a millisecond a fact."""
    tail_kept: int = 16
    """Number of newest facts that stay out of the checkpoint, so that a fact may arrive as many facts late."""

    async def take(self, records: Sequence[Readable], *, replacing: bool = False) -> Counted:
        """Adds the records' facts, each event once, and updates the figures.

        `replacing` overwrites stored facts and leaves the figures as they are: the caller calls `recompute` for all
        owners at the end. Records that are not valid events, or that Postgres refuses, are logged and left out. The
        worker dead-letters them. Raises StoreUnavailable; a retry counts no event twice.
        """
        found, counted = [], Counted()
        for record in records:
            fact = None
            try:
                fact = fact_of(record.value) if is_counted(record.type) else None
            except MalformedEvent as error:
                _log_left_out(record, error)
                counted += Counted(unreadable=1)
            else:
                counted += Counted(facts=1) if fact else Counted(passed=1)
            if fact is not None:
                found.append((record, fact))
        return counted + await self._keep(found, replacing=replacing) if found else counted

    async def recompute(self, transaction: FigureTransaction, owners: Collection[Owner]) -> int:
        """Computes these owners' figures from all of their facts and stores the differences.

        Returns the number of rows.
        """
        by_owner: dict[Owner, list[Fact]] = defaultdict(list)
        for fact in await transaction.facts_of(owners):
            by_owner[fact.of].append(fact)
        wanted = [row for facts in by_owner.values() for row in figures_of(facts, self.config)]
        await transaction.drop_checkpoints(owners)
        made = [self._checkpoint(owner, BEGINNING, in_order(facts)) for owner, facts in by_owner.items()]
        await transaction.save_checkpoints([row for row in made if row is not None])
        return await _write(transaction, await transaction.figures_of(owners), wanted)

    async def update(self, transaction: FigureTransaction, added: Mapping[Owner, datetime]) -> int:
        """Updates the figures of these owners after facts were added. Returns the number of rows.

        `added` has the earliest second of each owner's new facts. If it is before the owner's checkpoint, all facts
        are read.
        """
        usable = {
            row.of: row
            for row in await transaction.checkpoints_of(added)
            if row.made_by == self._made_by and added[row.of] >= row.since
        }
        rows = 0
        left = [owner for owner in added if owner not in usable]
        for owner, found in usable.items():
            changed = await self._continue(transaction, found)
            if changed is None:
                left.append(owner)
            else:
                rows += changed
        return rows + (await self.recompute(transaction, left) if left else 0)

    async def _continue(self, transaction: FigureTransaction, start: Checkpoint) -> int | None:
        """Updates one owner's figures from its checkpoint and the facts after it.

        Returns the number of rows, or None if all facts are needed.
        """
        owner, before = start.of, running_of(start)
        tail = in_order(await transaction.facts_since(owner, start.since))
        if any(is_imported(fact) for fact in tail):
            return None  # it changes what was before
        lost = {
            id_
            for moment in timeline(tail, self.config, before.standings, since=before.until)
            for id_, standing in moment.standings.items()
            if standing.status in LOST
        }
        subjects = {fact.subject for fact in tail if fact.kind is not FactKind.SUBSCRIPTION}
        touched = in_order(await transaction.facts_touched(owner, start.since, subjects, lost))
        about = {fact.subject for fact in touched}
        stored = await transaction.figures_about(owner, start.since, about)
        wanted = figures_since(before, tail, touched, self.config)
        totals = changed_totals(
            (row for row in stored if isinstance(row, PaymentTotal)),
            (row for row in stored if isinstance(row, PaymentFigure)),
            (row for row in wanted if isinstance(row, PaymentFigure)),
        )
        if totals is None:
            return None
        if (moved := self._checkpoint(owner, before, tail)) is not None:
            await transaction.save_checkpoints([moved])
        return await _write(transaction, stored, [*wanted, *totals])

    def _checkpoint(self, owner: Owner, before: Running, tail: Sequence[Fact]) -> Checkpoint | None:
        if len(tail) <= self.tail_most:
            return None
        return checkpoint(owner, before, tail, self.config, keep=self.tail_kept, made_by=self._made_by)

    @property
    def _made_by(self) -> str:
        return fingerprint(self.config)

    async def _keep(self, found: Sequence[tuple[Readable, Fact]], *, replacing: bool) -> Counted:
        """Stores the facts. If Postgres refuses, halves the batch until each refused record is alone, and skips it."""
        try:
            async with self.store.transaction({(record.topic, record.partition) for record, _ in found}) as transaction:
                added = await transaction.add([fact for _, fact in found], replacing=replacing)
                if replacing:
                    await transaction.drop_checkpoints(added)
                return Counted(rows=await self.update(transaction, added) if added and not replacing else 0)
        except StoreRefused as error:
            if len(found) == 1:
                _log_left_out(found[0][0], error)
                return Counted(facts=-1, unreadable=1)
        half = len(found) // 2
        return await self._keep(found[:half], replacing=replacing) + await self._keep(found[half:], replacing=replacing)


async def _write(transaction: FigureTransaction, stored: Iterable[Figure], wanted: Iterable[Figure]) -> int:
    """Stores the differences between these figures. Returns the number of rows."""
    before, after = _by_key(stored), _by_key(wanted)
    gone = [row for key, row in before.items() if key not in after]
    changed = [row for key, row in after.items() if before.get(key) != row]
    await transaction.write(gone, changed)
    return len(gone) + len(changed)


def _by_key(rows: Iterable[Figure]) -> dict[tuple[object, ...], Figure]:
    return {(type(row), *(getattr(row, name) for name in FIGURE_KEYS[type(row)])): row for row in rows}


def _log_left_out(record: Readable, error: Exception) -> None:
    log.warning(
        "analytics.left_out",
        action="analytics.left_out",
        error=f"{type(error).__name__}: {error}",
        type=record.type,
        partition=record.partition,
        offset=record.offset,
    )
