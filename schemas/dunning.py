"""The steps of the dunning sequence, a part of the config (schemas/settings.py)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.mail import DUNNING_MAILS


class DunningStep(BaseModel):
    """One step of the dunning sequence after a failed payment of an invoice (behaviours.md C3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    attempts: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Sent when `attempt_count` has one of these values."""
    after_days: int | None = Field(None, ge=1)
    """Sent this many days after the first failure, if the invoice is still unpaid."""
    final: bool = False
    """Sent when Stripe stops trying: no `next_payment_attempt`, or more attempts than any other step names."""

    @model_validator(mode="after")
    def _is_sent_at_one_time(self) -> DunningStep:
        if self.template not in DUNNING_MAILS:
            raise ValueError(f"{self.template} is not a dunning mail: these are {', '.join(sorted(DUNNING_MAILS))}")
        if [bool(self.attempts), self.after_days is not None, self.final].count(True) != 1:
            raise ValueError(f"{self.template} needs exactly one of attempts, after_days and final")
        return self


DEFAULT_DUNNING = (
    DunningStep(template="payment-failed", attempts=(1,)),
    DunningStep(template="payment-reminder", after_days=3),
    DunningStep(template="payment-urgent", attempts=(2, 3)),
    DunningStep(template="payment-final", final=True),
)
