"""The processor fed from memory, as in bench/from_memory.py, but the ledger keeps no changes: what they cost."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import uvloop

from bench import from_memory
from schemas.changes import Change
from schemas.state import Row
from streams import flush


def none_of(_pairs: Iterable[tuple[Row | None, Row | None]], _customer_id: str | None) -> list[Change]:
    """Returns no change."""
    return []


if __name__ == "__main__":
    vars(flush)["changes_of"] = none_of
    count, customers, lanes = (int(argument) for argument in sys.argv[1:4])
    uvloop.run(from_memory.main(count, customers, lanes))
