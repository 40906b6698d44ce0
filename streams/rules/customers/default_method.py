"""Decides which payment method is a customer's default, in any order of the events.

Candidates are the methods that customer events name and, with rules.set_default_payment_method, attached methods. The
newest wins. A detached method is never the default, even if its detachment is processed first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer
from schemas.version import Version, is_tie
from streams.rules.customers import newest


def with_default(
    known: Known,
    customer: Customer,
    method_id: str | None,
    new_version: Version,
    previous: Mapping[str, Any] = MappingProxyType({}),
) -> Customer:
    """The customer after an event that names this default method. None clears the default.

    `previous` has the event's previous values, under the names of columns.
    """
    shown = {"default_payment_method": method_id}
    found = newest.settled(customer, newest.DEFAULT, customer.default_version, new_version, shown, previous)
    is_latest = found is not None
    if found is not None:
        facts, new_version, customer = found
        method_id = facts["default_payment_method"]
        default = None if method_id is None or _is_detached(known, customer, method_id) else method_id
        customer = replace(customer, default_payment_method=default, default_version=new_version)
    is_newer = new_version > customer.last_default_version
    if method_id is not None and (is_newer or (is_latest and is_tie(new_version, customer.last_default_version))):
        customer = replace(customer, last_default=method_id, last_default_version=new_version)
    return customer


def _is_detached(known: Known, customer: Customer, method_id: str) -> bool:
    methods = known.payment_methods_of(customer.account, customer.customer_id)
    return any(method.payment_method_id == method_id and method.detached_at is not None for method in methods)


def without_default(customer: Customer, method_id: str) -> Customer:
    """The customer after this method was detached. `default_version` does not change."""
    if customer.default_payment_method != method_id:
        return customer
    return replace(customer, default_payment_method=None)
