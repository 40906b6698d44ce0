"""The table `retention` of the config: how long what has ended is kept."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Retention(BaseModel):
    """How long what has ended is kept (`billing prune`; docs/operations.md, What grows and what ends it). 0: always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contents_days: int = Field(90, ge=0, le=36_500)
    """Days after which the payload of a settled event and the contents of its mails, timers and calls end."""
    archived_days: int = Field(0, ge=0, le=36_500)
    """Days after which an archived payload ends, too (BILLING_PAYLOADS_URL), counted from when it was archived."""
    records_days: int = Field(400, ge=0, le=36_500)
    """Days after which closed dead letters, deleted exports and old runs end. Longer than the topics keep records."""
