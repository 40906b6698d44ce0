"""Decides which payment method is a customer's default, in any order of the events.

Candidates are the methods that customer events name and, with rules.set_default_payment_method, attached methods. The
newest wins. A detached method is never the default, even if its detachment is processed first.
"""

from __future__ import annotations

from typing import Any

from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer
from schemas.version import Version


def with_default(known: Known, customer: Customer, method_id: str | None, new_version: Version) -> Customer:
    """The customer after an event that names this default method. None clears the default."""
    changes: dict[str, Any] = {}
    if new_version > customer.default_version:
        method = known.payment_method(customer.account, method_id) if method_id is not None else None
        is_gone = method is not None and method.detached_at is not None
        changes |= {"default_payment_method": None if is_gone else method_id, "default_version": new_version}
    if method_id is not None and new_version > customer.last_default_version:
        changes |= {"last_default": method_id, "last_default_version": new_version}
    return replace(customer, **changes)


def without_default(customer: Customer, method_id: str) -> Customer:
    """The customer after this method was detached. `default_version` does not change."""
    if customer.default_payment_method != method_id:
        return customer
    return replace(customer, default_payment_method=None)
