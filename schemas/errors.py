"""What can go wrong with an event, and what to do about it (design.md 9).

    BillingError
    ├── Transient                retried in place with back-off; the partition waits
    │   ├── StoreUnavailable     Postgres does not answer, is full, or broke a deadlock
    │   ├── LogUnavailable       Kafka does not take the dead letter
    │   ├── Conflict             another transaction was first; decide again on what it left
    │   └── Unsettled            an error nobody foresaw, not yet seen often enough to call it poison
    ├── NotKnownYet              refers to what may still come: the event waits, its partition does not
    └── Poison                   will fail the same way for ever: dead-lettered, and the partition moves on
        ├── MalformedEvent       cannot be read as an event, or as its type's object
        ├── RuleViolated         contradicts itself, or a rule
        ├── StoreRefused         Postgres will never take these values
        ├── NeverKnown           what it refers to did not come within the limit
        └── Unforeseen           a bug of ours, after a few tries

The message is written for whoever reads the dead letter: it names the field or the constraint, never a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.effects import Effect


class BillingError(Exception):
    """Anything this project raises about an event."""


class Transient(BillingError):
    """Time or the other side will heal it."""


class StoreUnavailable(Transient):
    """Postgres can't be reached or can't work now."""


class LogUnavailable(Transient):
    """Kafka can't be reached or can't work now."""


class Conflict(Transient):
    """A row was written by another transaction after this one had looked."""


class Unsettled(Transient):
    """An error that no rule foresaw; worth a few more tries."""


class NotKnownYet(BillingError):
    """The event refers to something not known yet; the message names it (`invoice in_…`).

    `at_last`: what to do once the limit is reached, where the event makes sense without it; None: it is dead then.
    """

    def __init__(self, missed: str, at_last: Sequence[Effect] | None = None) -> None:
        super().__init__(missed)
        self.at_last = at_last


class Poison(BillingError):
    """This event can't be applied, now or ever."""


class MalformedEvent(Poison):
    """The record is no event, or its object breaks the model of its type."""


class RuleViolated(Poison):
    """The payload contradicts itself or a rule."""


class StoreRefused(Poison):
    """A constraint or a type of the database refuses the values."""


class NeverKnown(Poison):
    """The event waited for something to its limit, and it never became known."""


class Unforeseen(Poison):
    """An error nobody wrote a rule for; its traceback is kept."""
