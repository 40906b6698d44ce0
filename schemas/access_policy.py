"""The table `access` of the config."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AccessPolicy(BaseModel):
    """Which subscriptions give access (behaviours.md B8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    past_due_grace_days: int = Field(14, ge=0, le=365)
    """Days for which a subscription that is past due still gives access, from when it became so; 0: none."""
    also: tuple[Literal["unpaid", "paused"], ...] = ()
    """Further statuses that give access. With `unpaid`, a subscription that is past due gives access without an end."""
