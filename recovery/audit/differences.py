"""The differences that an audit finds: their kinds, their causes, and the command that repairs each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from schemas.command_line import command

Fields = Mapping[str, list[Any]]
"""By name: Stripe's value and the table's value, as JSON."""


class Kind(StrEnum):
    """What differs."""

    EVENT = "event"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"
    CHARGE = "charge"
    REFUND = "refund"
    TOTAL = "total"


PAYMENTS = "payments"
"""The field of a charge that is stored twice: the number of its payments, and their ids."""


class Cause(StrEnum):
    """Why something differs, as far as the ledger, the log and Stripe show it."""

    NEVER_ARRIVED = "never arrived"
    DEAD = "dead"
    STALE = "stale"
    """The newest event of the object was older than its row."""
    NOT_YET_APPLIED = "not yet applied"
    """The event is on the log, or waits for another event."""
    UNKNOWN_PRICE = "unknown price"
    OTHER_PLAN = "another plan"
    """The plans of the configuration have changed since the row was derived, or the row was changed."""
    STORED_TWICE = "stored twice"
    """There are two payments of one charge."""
    CHANGED_MEANWHILE = "changed at Stripe meanwhile"
    UNKNOWN_TO_STRIPE = "Stripe does not know it"
    UNREADABLE = "unreadable"
    """Stripe's object cannot be read, so nothing of it was compared."""
    INCOMPLETE = "incomplete at Stripe"
    """Stripe's subscription has no items. The stored ones are kept."""
    OF_OBJECTS = "objects differ"
    """A total differs together with objects of its kind."""
    UNEXPLAINED = "no event explains it"


@dataclass(frozen=True, slots=True)
class AuditDifference:
    """One object, event or total that differs. `fields` is empty if there is nothing on one of the sides to show."""

    kind: Kind
    id: str
    fields: Fields
    cause: Cause = Cause.UNEXPLAINED
    subject: str = ""
    """Of an event: the id of its object."""
    repair: str = field(default="", compare=False)

    @property
    def stripes(self) -> dict[str, Any]:
        """Stripe's values by name."""
        return {name: both[0] for name, both in self.fields.items()}


def cause_of_event(outcome: str | None, *, is_waiting: bool) -> Cause | None:
    """Return why an event that Stripe sent is not in the tables, None if it is (or need not be)."""
    match outcome:
        case None:
            return Cause.NOT_YET_APPLIED if is_waiting else Cause.NEVER_ARRIVED
        case "dead":
            return Cause.DEAD
        case "waiting":
            return Cause.NOT_YET_APPLIED
    return None


def doubled(others: AuditDifference | None, id_: str, payments: Sequence[str]) -> AuditDifference:
    """Return that there are several payments of a charge, with what else differs of it."""
    fields = others.fields if others is not None else {}
    return AuditDifference(Kind.CHARGE, id_, {**fields, PAYMENTS: [1, list(payments)]}, Cause.STORED_TWICE)


def repair_of(found: AuditDifference, account: str, window_from: datetime) -> str:
    """Return the command that repairs the difference, or what an operator has to do before the next audit."""
    since = f"{window_from:%Y-%m-%dT%H:%M:%S}"
    again = command("audit", since=since, account=account)
    match found.cause:
        case Cause.NEVER_ARRIVED if found.kind is Kind.EVENT:
            return command("replay", found.id, **{"from": "stripe", "account": account})
        case Cause.DEAD if found.kind is Kind.EVENT:
            return command("dead replay", id=found.id)
        case Cause.NOT_YET_APPLIED | Cause.CHANGED_MEANWHILE | Cause.OF_OBJECTS:
            return again
        case Cause.UNKNOWN_TO_STRIPE | Cause.STORED_TWICE:  # changes nothing: docs/runbook.md has the reasons
            return command("event" if found.kind is Kind.EVENT else "find", found.id)
        case Cause.UNREADABLE | Cause.INCOMPLETE:
            return command("event", found.id) if found.kind is Kind.EVENT else ""
    if found.kind is Kind.EVENT:
        return command("replay", found.id)
    return again if found.kind is Kind.TOTAL else command("reconcile", object=found.id, account=account)
