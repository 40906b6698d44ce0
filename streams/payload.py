"""Prepares the JSON of an event for the ledger."""

from __future__ import annotations

import re
from typing import Any

import orjson

from schemas.json_text import dumped

_TINY = re.compile(rb"-(?<=[0-9][eE]-)[0-9]{4}")
"""A number like 1e-1600. It begins with the minus, for which the search is fast: each event is searched."""

_PERSONAL = frozenset(
    {
        *(
            "name",
            "email",
            "phone",
            "address",
            "shipping",
            "billing_details",
            "receipt_email",
            "description",
            "metadata",
        ),
        *("customer_name", "customer_email", "customer_phone", "customer_address", "customer_shipping"),
        *("customer_details", "customer_tax_ids", "evidence", "payment_method_details", "card", "source", "owner"),
        *("individual_name", "business_name", "collected_information", "shipping_details", "custom_fields"),
        *("client_reference_id", "client_ip", "ip", "ip_address", "fingerprint", "last4", "sepa_debit", "bank_account"),
    }
)
"""Fields of Stripe's objects with data on a person."""

_CODE = re.compile(r"[\w.:/?&=%-]{0,500}", re.ASCII)
"""An id, a status, a time or a link. A text with a blank, a @ or a letter beyond ASCII may be about a person."""


def without_person(value: bytes) -> str:
    """Returns the payload of an event that waits, without data on a person who was erased: its rule reads it again.

    Stripe may add fields at any time. So of those that are not named above only texts without words are kept.
    """
    event = orjson.loads(value)
    left: list[Any] = [event]
    while left:  # not recursive: orjson accepts 1,024 levels, Python's stack about as many
        part = left.pop()
        for key, inner in list(part.items() if isinstance(part, dict) else enumerate(part)):
            if key in _PERSONAL or (isinstance(inner, str) and not _CODE.fullmatch(inner)):
                part[key] = None
            elif isinstance(inner, dict | list):
                left.append(inner)
    return dumped(event).decode()


def as_stored(value: bytes) -> str:
    """Returns the JSON as received, except for numbers like 1e-16000, which become 0 as for every other reader.

    Postgres would write out all their zeros each time that the payload is read: a body of 1 MiB becomes 2 GiB.
    """
    return dumped(orjson.loads(value)).decode() if _TINY.search(value) else value.decode()
