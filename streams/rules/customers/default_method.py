"""Inside the rules: which payment method is a customer's default, whatever order its events come in.

Candidates are what customers' events name and, where rules.set_default_payment_method says so, what was attached; the
newest holds. One that is detached is no default any more, also where that became known first.
"""

from __future__ import annotations

from typing import Any

from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer
from schemas.version import Version


def offered(known: Known, customer: Customer, method_id: str | None, word: Version) -> Customer:
    """The customer after an event that names this default; None says that there is none."""
    changes: dict[str, Any] = {}
    if word > customer.default_version:
        method = known.payment_method(customer.account, method_id) if method_id is not None else None
        is_gone = method is not None and method.detached_at is not None
        changes |= {"default_payment_method": None if is_gone else method_id, "default_version": word}
    if method_id is not None and word > customer.last_default_version:
        changes |= {"last_default": method_id, "last_default_version": word}
    return replace(customer, **changes)


def without(customer: Customer, method_id: str) -> Customer:
    """The customer after this method was detached. What was said of the default keeps its version."""
    if customer.default_payment_method != method_id:
        return customer
    return replace(customer, default_payment_method=None)
