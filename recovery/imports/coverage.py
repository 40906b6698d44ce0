"""Which events need not arrive, because an import has read what they changed (behaviours.md F1).

An import reads customers, subscriptions, invoices, refunds, disputes and default cards (importer.PARTS). These objects
do not show a finished checkout, which links a user or is a purchase, a payment, which may be one without an invoice, an
account that was disconnected, a failed payout, an early warning of fraud. So it also appends the past events of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.plugin_registry import own_event_types
from streams.rules.catalog import RULES

_READ = (
    "customer.",
    "payment_method.",
    "invoice.",
    "invoice_payment.",
    "credit_note.",  # the invoice has its amounts
    "charge.refund",
    "charge.dispute.",
    "refund.",
)
"""How the types of the events begin whose effects are in the objects that an import reads."""
_OURS = ("timer.", "plans.", "erasure.")
"""How the types begin that are not Stripe's."""
_CHECKOUT = "checkout."


def past_types(*, checkouts: bool) -> list[str]:
    """Returns the types of events that a rule applies and whose effects the objects of an import do not show.

    Either those of checkouts, or all others.
    """
    ours = own_event_types()
    return sorted(
        type_
        for type_ in RULES
        if type_ not in ours and not type_.startswith((*_READ, *_OURS)) and type_.startswith(_CHECKOUT) is checkouts
    )


def is_covered(event: Mapping[str, Any], covered_until: datetime | None) -> bool:
    """Whether the event was created before the time that an import covers, and is about something that it reads."""
    created, type_ = event.get("created"), event.get("type")
    return (
        covered_until is not None
        and type(created) is int
        and created < int(covered_until.timestamp())
        and str(type_).startswith(_READ)
    )
