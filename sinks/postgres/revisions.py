"""The revisions of the schema that this code has, by the names of their files (rNNNN_NAME.py, one after another).

A process that compares its revision with the database's at its start loads neither Alembic nor the migrations.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from sinks.postgres.migrations import versions

_FILE = re.compile(r"r(\d{4})_\w+\.py")


@cache
def revisions() -> tuple[str, ...]:
    """Returns all revisions, the oldest first."""
    files = (_FILE.fullmatch(path.name) for path in Path(versions.__file__).parent.iterdir())
    return tuple(sorted(file[1] for file in files if file is not None))


def newest_revision() -> str:
    """Returns the revision that this code expects. Raises LookupError."""
    if not revisions():
        raise LookupError("the package contains no revision")
    return revisions()[-1]


def is_known(found: str) -> bool:
    """Returns whether this code has that revision; a newer version's is not known."""
    return found in revisions()
