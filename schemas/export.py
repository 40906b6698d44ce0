"""A stored export order, as the gateway reads it to serve a download (behaviours.md B6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ExportStatus(StrEnum):
    """`queued → working → done → expired → deleted`. `failed`: all tries failed, and no archive is kept."""

    QUEUED = "queued"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    """No longer available; its archive is being deleted."""
    DELETED = "deleted"
    SUPPRESSED = "suppressed"
    WITHHELD = "withheld"
    """Ordered during a rebuild, so it is not carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExport:
    """An export order. `location` is the archive's name in its folder: not a secret, but not shown to customers."""

    key: str
    status: ExportStatus
    expires_at: datetime
    done_at: datetime | None
    location: str | None
    size: int | None
    """In bytes."""
