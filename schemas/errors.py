"""The errors that an event can cause, and the reaction to each (docs/decisions.md 12).

    BillingError
    ├── Transient                retried in place with back-off; the partition waits
    │   ├── StoreUnavailable     Postgres does not answer, is full, or resolved a deadlock
    │   ├── LogUnavailable       Kafka does not store the dead letter
    │   ├── Conflict             another transaction wrote first; the batch is decided again on its rows
    │   └── Unsettled            an unexpected error, not yet repeated often enough to count as poison
    ├── DatabaseBehind           the database was restored under a running worker: it ends and compares at its start
    ├── CannotBury               neither applied nor dead-lettered: the process ends and names the record
    ├── NotKnownYet              refers to something that may still arrive: the event waits, its partition does not
    ├── NotReferred              a rule uses a row that its `refer` does not name: a bug, dead-lettered as Unforeseen
    └── Poison                   fails the same way on every try: dead-lettered, and the partition continues
        ├── MalformedEvent       cannot be parsed as an event, or as the object of its type
        ├── WrongMode            belongs to Stripe's other mode (live or test)
        ├── RuleViolated         the payload contradicts itself or a rule
        ├── StoreRefused         Postgres rejects these values permanently
        ├── NeverKnown           the object it refers to did not arrive within the limit
        └── Unforeseen           a bug in this project, after a few tries

The message is for the reader of the dead letter. It names the field or the constraint, and contains no secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.effects import Effect


class BillingError(Exception):
    """Base class of all errors that this project defines. Most of those in this module are about an event."""


class Transient(BillingError):
    """The error is temporary; a retry can succeed."""


class StoreUnavailable(Transient):
    """Postgres can't be reached or can't work now."""


class LogUnavailable(Transient):
    """Kafka can't be reached or can't work now."""


class ServiceUnavailable(BillingError):
    """Stripe, the gateway or a store of files can't be reached. For commands; an outbox retries such calls."""


class Conflict(Transient):
    """Another transaction wrote a row after this one had read it."""


class Unsettled(Transient):
    """An unexpected error that is retried a few times."""


class NotKnownYet(BillingError):
    """The event refers to an object that is not known yet. The message names it (`invoice in_…`).

    `at_last` has the effects to apply once the limit is reached, if the event makes sense without the object. None
    means that the event is dead-lettered then.
    """

    def __init__(self, missed: str, at_last: Sequence[Effect] | None = None) -> None:
        super().__init__(missed)
        self.at_last = at_last


class DatabaseBehind(BillingError):
    """The database lacks what this worker has committed. The message names the partition and both offsets."""


class CannotBury(BillingError):
    """A record can be neither applied nor dead-lettered. `place` is its topic, partition and offset."""

    def __init__(self, place: tuple[str, int, int], event_id: str, cause: str) -> None:
        super().__init__(cause)
        self.place = place
        self.event_id = event_id


class NotReferred(BillingError):
    """A rule reads or saves a row that its own `refer` does not name. The message names the row.

    Such a row is loaded only if another event of the batch refers to it.
    """


class Poison(BillingError):
    """This event can never be applied."""


class MalformedEvent(Poison):
    """The record is not an event, or its object does not fit the model of its type."""


class WrongMode(Poison):
    """The event belongs to Stripe's other mode: one system serves one mode."""


class RuleViolated(Poison):
    """The payload contradicts itself or a rule."""


class StoreRefused(Poison):
    """A constraint or a column type of the database rejects the values."""


class NeverKnown(Poison):
    """The object that the event waited for did not become known within the limit."""


class Unforeseen(Poison):
    """An unexpected error that repeated. Its traceback is kept."""
