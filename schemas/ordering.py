"""Computes the Kafka key of an event, for the gateway and every other producer of the topic.

Events with the same key are on one partition, in order. The key is the customer if the event names one, otherwise the
id in the payload that related events share. Pure: the same payload always gives the same key, and no payload raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from schemas.storable import MAX_ID_BYTES, bounded

MAX_KEY_BYTES = MAX_ID_BYTES

UNKNOWN_KEY = "unknown"
"""The key of a payload without any id. The gateway refuses such payloads, so only other producers can write it."""

GUEST = "guest:"
"""How the key of a guest begins."""

_MAPPING = (dict, Mapping)
"""`dict` comes first: most values are dicts, and the check of an abstract type costs ten times as much."""

_MOST_SHARED_FIRST = ("charge", "payment_intent", "invoice")


def ordering_key(event: Mapping[str, object]) -> str:
    """Returns the key of a snapshot (`object: event`) or thin (`v2.core.event`) event: 1 to 255 bytes of UTF-8.

    `{account}/{subject}` for an event of a connected account, else `{subject}`. The subject is the customer or, without
    one, the id that related objects share: charge, payment intent, invoice, account, own id, event id.
    """
    account = account_of(event)
    subject = customer_id_of(event) or _guest_of(event) or _shared_id(event, account)
    if account is not None and account != subject:
        return bounded(f"{account}/{subject}")
    return bounded(subject)


def customer_id_of(event: Mapping[str, object]) -> str | None:
    """Returns the id of the customer that the event is about, None if it names none (a guest has no id)."""
    o = object_of(event)
    if o.get("object") == "customer":
        return _id(o)
    customer = _id(o.get("customer")) or _id(o.get("customer_account"))
    if customer is not None:
        return customer
    # Of an identity.verification_session, and of a linked bank account (financial_connections.account).
    customer = _id(o.get("related_customer")) or _id(_mapping(o.get("account_holder")).get("customer"))
    if customer is not None:
        return customer
    # payment_method.detached: the card no longer names its customer, only `previous_attributes` does.
    previous = _mapping(_mapping(event.get("data")).get("previous_attributes"))
    return _id(previous.get("customer")) or _id(previous.get("customer_account"))


_NAMED = (
    *("charge", "latest_charge", "payment_intent", "invoice", "payment_method", "setup_intent"),
    "source_transaction",  # the charge of a transfer
)


def named_ids(event: Mapping[str, object]) -> tuple[str, ...]:
    """Returns the ids of the event's object and of the payments and cards that it names, each once."""
    o = object_of(event)
    payment = _mapping(o.get("payment"))
    found = [
        _id(o),
        *(_id(o.get(name)) for name in _NAMED),
        _id(payment.get("charge")),
        _id(payment.get("payment_intent")),
    ]
    return tuple(dict.fromkeys(id_ for id_ in found if id_ is not None))


_ADDRESSES = (
    *(("customer_details", "email"), ("customer_email",), ("billing_details", "email"), ("receipt_email",)),
    *(("owner", "email"), ("provided_details", "email")),  # of a source, and of a check of an identity
)
"""Where the objects of a guest's purchase have the guest's address."""


def guest_keys(event: Mapping[str, object]) -> tuple[str, ...]:
    """Returns the digests of the addresses in the event's object, by which a guest is found, each once."""
    found = []
    for *outer, last in _ADDRESSES:
        part = object_of(event)
        for name in outer:
            part = _mapping(part.get(name))
        if (email := _text(part.get(last))) is not None:
            found.append(guest_key(email))
    return tuple(dict.fromkeys(found))


def account_of(event: Mapping[str, object]) -> str | None:
    """Returns the connected account: `account` of a snapshot event, `context` of a thin one, None without one."""
    # A snapshot event may have a `context` too, with the same value as `account`.
    return _id(event.get("context" if event.get("object") == "v2.core.event" else "account"))


def _guest_of(event: Mapping[str, object]) -> str | None:
    """Returns a digest of the e-mail address in a guest's Checkout Session, which is all that the purchases share.

    The address itself is personal data, and keys stay on the topic and appear in logs.
    """
    o = object_of(event)
    if o.get("object") != "checkout.session":
        return None
    email = _text(_mapping(o.get("customer_details")).get("email")) or _text(o.get("customer_email"))
    return None if email is None else guest_key(email)


def guest_key(email: str) -> str:
    """Returns `guest:` and a digest of the address, the same for any case of letters."""
    return GUEST + hashlib.sha256(email.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()


def _shared_id(event: Mapping[str, object], account: str | None) -> str:
    o = object_of(event)
    kind = o.get("object")
    own_id = _id(o)
    if kind == "application" and account is not None:
        return account  # account.application.deauthorized: the object is the platform's `ca_…`, the same for everyone
    if kind in _MOST_SHARED_FIRST and own_id is not None:
        return own_id
    for name in _MOST_SHARED_FIRST:
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


def object_of(event: object) -> Mapping[str, object]:
    """Returns `data.object` of a decoded event, {} if it has none or that is no object."""
    return _mapping(_mapping(_mapping(event).get("data")).get("object"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, _MAPPING) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _id(value: object) -> str | None:
    """Returns the id of an expandable field: Stripe sends either the id or the object."""
    if value is None or isinstance(value, str):
        return value or None
    return _text(value.get("id")) if isinstance(value, _MAPPING) else None
