"""Which events need not arrive, because an import has read what they changed (behaviours.md F1).

An import reads customers, subscriptions, invoices, refunds, disputes and default cards (importer.PARTS). What these
objects do not show has to arrive: a finished checkout, which links a user or is a purchase, a payment, which may be one
without an invoice, an account that was disconnected, a failed payout, an early warning of fraud.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

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


def is_covered(event: Mapping[str, Any], covered_until: datetime | None) -> bool:
    """Whether the event was created before the time that an import covers, and is about something that it reads."""
    created, type_ = event.get("created"), event.get("type")
    return (
        covered_until is not None
        and type(created) is int
        and created < int(covered_until.timestamp())
        and str(type_).startswith(_READ)
    )
