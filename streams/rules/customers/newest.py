"""Decides what counts of a group of a customer's columns after an event that names them (behaviours.md D2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.fast_row import replace
from schemas.state import Customer
from schemas.version import Version
from streams.rules import same_second

PROFILE = ("email", "locale", "name")
ADDRESS = ("address",)
DEFAULT = ("default_payment_method",)
USER = ("user_id",)


def settled(
    customer: Customer,
    group: tuple[str, ...],
    stored: Version,
    new_version: Version,
    shown: Mapping[str, Any],
    previous: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Version, Customer] | None:
    """Returns the values that count, their version, and the customer who remembers the event; None if it is older.

    `group` names the columns, `stored` is their version. `shown` and `previous` may have further values.
    """
    name = group[0]
    facts = {column: getattr(customer, column) for column in group}
    if group == DEFAULT and customer.last_default_version == stored:
        facts = {"default_payment_method": customer.last_default}  # the row has none if it was detached since
    new = {
        "version": new_version,
        "previous": {column: previous[column] for column in group if column in previous},
        "facts": {column: shown[column] for column in group},
    }
    found = same_second.settled(customer.newest.get(name, {}), stored, facts, new)
    if found is None:
        return None
    latest, entry = found
    others = {other: value for other, value in customer.newest.items() if other != name}
    newest = {**others, name: entry} if entry else others
    return latest["facts"], Version(latest["version"]), replace(customer, newest=newest)


def is_undecided(before: Customer, after: Customer) -> bool:
    """Whether an event left open which of those of its second is the latest. Links of users are never asked for."""
    return any(
        same_second.is_undecided(entry["tied"])
        for name, entry in after.newest.items()
        if "tied" in entry and name != USER[0] and entry != before.newest.get(name)
    )
