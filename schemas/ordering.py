"""Whose turn an event takes: the Kafka key, computed once by the gateway and by every other producer to the topic.

One key is one partition, so the key is what is kept in order: the customer, wherever the event names one, and else
the steadiest id of the payload. Pure and total: the same payload always gives the same key, whatever it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

MAX_KEY_BYTES = 255

UNKNOWN_KEY = "unknown"
"""The key of a payload that holds no id at all; the gateway refuses those, so only foreign producers meet it."""

_MAPPING = (dict, Mapping)
"""The concrete type first: most are one, and an abstract type's check costs ten times as much."""

_STEADIEST_FIRST = ("charge", "payment_intent", "invoice")


def ordering_key(event: Mapping[str, object]) -> str:
    """The key of a snapshot (`object: event`) or thin (`v2.core.event`) event: non-empty, at most 255 bytes of utf-8.

    `{account}/{subject}` for an event of a connected account, else `{subject}`; the subject is the customer or, where
    there is none, what Stripe's objects around it share: charge, payment intent, invoice, account, own id, event id.
    """
    account = account_of(event)
    subject = customer_id_of(event) or _guest_of(event) or _steadiest_id(event, account)
    if account is not None and account != subject:
        return _bounded(f"{account}/{subject}")
    return _bounded(subject)


def customer_id_of(event: Mapping[str, object]) -> str | None:
    """The id of the customer that the event is about, or None where it names none (a guest has no id)."""
    o = _object_of(event)
    if o.get("object") == "customer":
        return _id(o)
    customer = _id(o.get("customer")) or _id(o.get("customer_account"))
    if customer is not None:
        return customer
    # payment_method.detached: the card no longer says whose it was, only that this changed.
    previous = _mapping(_mapping(event.get("data")).get("previous_attributes"))
    return _id(previous.get("customer")) or _id(previous.get("customer_account"))


def account_of(event: Mapping[str, object]) -> str | None:
    """The connected account: `account` of a snapshot event, `context` of a thin one; None for one's own."""
    # A snapshot event may carry a `context` as well, and means nothing else by it than by `account`.
    return _id(event.get("context" if event.get("object") == "v2.core.event" else "account"))


def _guest_of(event: Mapping[str, object]) -> str | None:
    """A guest's e-mail address at a Checkout Session, which is all that their purchases share."""
    o = _object_of(event)
    if o.get("object") != "checkout.session":
        return None
    email = _text(_mapping(o.get("customer_details")).get("email")) or _text(o.get("customer_email"))
    return email.lower() if email is not None else None


def _steadiest_id(event: Mapping[str, object], account: str | None) -> str:
    o = _object_of(event)
    kind = o.get("object")
    own_id = _id(o)
    if kind == "application" and account is not None:
        return account  # account.application.deauthorized: the object is the platform's `ca_…`, the same for everyone
    if kind in _STEADIEST_FIRST and own_id is not None:
        return own_id
    for name in _STEADIEST_FIRST:
        if found := _id(o.get(name)):
            return found
    payment = _mapping(o.get("payment"))
    related = _mapping(event.get("related_object"))
    found = (
        _id(payment.get("charge"))
        or _id(payment.get("payment_intent"))
        or _id(o.get("account"))
        or own_id
        or _id(related)
        or _text(event.get("id"))
        or account
    )
    return found or UNKNOWN_KEY


def _object_of(event: Mapping[str, object]) -> Mapping[str, object]:
    return _mapping(_mapping(event.get("data")).get("object"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, _MAPPING) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _id(value: object) -> str | None:
    """An expandable field's id: Stripe sends either the id or the object that has it."""
    if value is None or isinstance(value, str):
        return value or None
    return _text(value.get("id")) if isinstance(value, _MAPPING) else None


def _bounded(key: str) -> str:
    """The key itself, or its digest where it is too long or holds what logs and text columns cannot."""
    if key.isprintable() and len(key.encode()) <= MAX_KEY_BYTES:
        return key
    # surrogatepass: a lone surrogate is not printable, so it ends up here and must still be hashed.
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
