"""An export as the gateway asks for it and the store knows it (behaviours.md B6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ExportStatus(StrEnum):
    """`queued → working → done → expired → deleted`; `failed` is given up, and nothing of it is kept."""

    QUEUED = "queued"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    """No longer to be had; its archive is being deleted."""
    DELETED = "deleted"
    SUPPRESSED = "suppressed"
    """Ordered by an event that was only read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExport:
    """What is known of an order. `location` names the archive in its folder, and is no secret but nobody's business."""

    key: str
    status: ExportStatus
    expires_at: datetime
    done_at: datetime | None
    location: str | None
    size: int | None
    """In bytes."""
