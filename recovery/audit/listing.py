"""Which of Stripe's objects an audit reads, and how it asks for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from recovery.audit.compare import AuditWindow
from recovery.audit.differences import Kind

PATHS = {
    Kind.SUBSCRIPTION: "/v1/subscriptions",
    Kind.INVOICE: "/v1/invoices",
    Kind.CHARGE: "/v1/charges",
    Kind.REFUND: "/v1/refunds",
}
"""Stripe's list of each kind of object."""
_EXPANDED = {Kind.REFUND: "charge"}
"""What is read with an object of this kind: only its charge has the sum of all refunds."""
_PAID_LATER = timedelta(days=31)
"""How long before the window invoices are listed that may have been paid in it."""


def params_of_list(kind: Kind, window: AuditWindow) -> dict[str, Any]:
    """Return the parameters with which Stripe lists the objects of this kind."""
    expand = {"expand": [f"data.{_EXPANDED[kind]}"]} if kind in _EXPANDED else {}
    if kind is Kind.SUBSCRIPTION:
        return {"status": "all", **expand}
    start = window.start - (_PAID_LATER if kind is Kind.INVOICE else timedelta(0))
    return {"created": {"gte": int(start.timestamp()), "lt": int(window.end.timestamp())}, **expand}


def params_of_one(kind: Kind) -> dict[str, Any]:
    """Return the parameters with which Stripe returns a single object of this kind."""
    return {"expand": [_EXPANDED[kind]]} if kind in _EXPANDED else {}
