"""Turns a batch of records into facts, and updates the figures of the owners of new facts in one transaction.

records ─▶ facts ─▶ [ store those that are new ─▶ load all facts of their owners ─▶ figures ─▶ write differences ]
                    └──────────────────────────── one transaction ───────────────────────────────────────────┘
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from analytics.compute import figures_of
from analytics.facts import fact_of, is_counted
from analytics.store import FigureStore, FigureTransaction
from schemas.errors import MalformedEvent, StoreRefused
from schemas.figures import FIGURE_KEYS, Fact, Figure, Owner
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

    async def take(self, records: Sequence[Readable], *, replacing: bool = False) -> Counted:
        """Adds the records' facts, each event once, and updates the figures. `replacing` overwrites stored facts.

        Records that are not valid events, or that Postgres refuses, are logged and left out. The worker dead-letters
        them. Raises StoreUnavailable; a retry counts no event twice.
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
        """Computes these owners' figures from their facts and stores the differences. Returns the number of rows."""
        by_owner: dict[Owner, list[Fact]] = defaultdict(list)
        for fact in await transaction.facts_of(owners):
            by_owner[fact.of].append(fact)
        wanted = _by_key(row for facts in by_owner.values() for row in figures_of(facts, self.config))
        stored = _by_key(await transaction.figures_of(owners))
        gone = [row for key, row in stored.items() if key not in wanted]
        changed = [row for key, row in wanted.items() if stored.get(key) != row]
        await transaction.write(gone, changed)
        return len(gone) + len(changed)

    async def _keep(self, found: Sequence[tuple[Readable, Fact]], *, replacing: bool) -> Counted:
        """Stores the facts. If Postgres refuses, halves the batch until each refused record is alone, and skips it."""
        try:
            async with self.store.transaction({(record.topic, record.partition) for record, _ in found}) as transaction:
                owners = await transaction.add([fact for _, fact in found], replacing=replacing)
                return Counted(rows=await self.recompute(transaction, owners) if owners else 0)
        except StoreRefused as error:
            if len(found) == 1:
                _log_left_out(found[0][0], error)
                return Counted(facts=-1, unreadable=1)
        half = len(found) // 2
        return await self._keep(found[:half], replacing=replacing) + await self._keep(found[half:], replacing=replacing)


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
