"""Gives new tables statistics as soon as they have rows, before the worker reads them again.

Without statistics, Postgres assumes 200 different accounts, or a different one in each row if it expects fewer rows. So
it believes that the rows of an account are one, and takes any index that begins with the account, whatever the id: each
key of a batch reads all rows of the table. Autovacuum would analyze the table within a minute. Until then a batch of
500 events may read a million rows.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_ANALYZE = "SELECT billing.analyze_new()"
EVERY_S = 0.25
"""Seconds between two looks for new tables. A look costs Postgres less than a millisecond."""


class NewTables:
    """Looks for new tables, on any connection of one pool."""

    def __init__(self) -> None:
        self._looked_at = -math.inf

    async def analyze(self, connection: Connection) -> None:
        """Analyzes the new tables, unless they were looked for within EVERY_S. Raises the driver's errors."""
        if time.monotonic() >= self._looked_at + EVERY_S:
            self._looked_at = time.monotonic()
            await connection.execute(_ANALYZE)
