"""Makes the event of `billing trigger`: an example, or an event from a file, that fits the customer and the config."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from local.stripe.builder import ApiShape, Json, StripeEvents
from local.stripe.events import EXAMPLES, example
from schemas.errors import BillingError
from schemas.plugin import OWN_ID
from schemas.plugin_registry import installed, own_event_types
from schemas.settings import FREE_PLAN, Config

EXAMPLE_CUSTOMER = "cus_1"

_ID = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_CUSTOMER_ID = re.compile(r"cus_[A-Za-z0-9_]{1,200}", re.ASCII)
_OF_CUSTOMER = re.compile(r"((?:si_|pi_)?(?:cus|sub|in|cs_test|ch|pi|pm|card|src|dp|re|si|issfr|inpay|user)_)([01])")
_OF_A_PAYMENT = ("charge.refund", "refund.", "charge.dispute.")
"""Beginnings of types whose objects name a charge and an intent, but no invoice."""
_LINK = "payment_intent.succeeded"
_ID_FIELDS = ("id", "customer", "subscription", "invoice", "charge", "payment_intent", "payment_method")


class InvalidEvent(BillingError):
    """The wanted event cannot be made. The message is one line that names the argument."""


def make_event(
    type_: str, created: int, config: Config, *, customer: str, shape: ApiShape, changes: Sequence[str] = ()
) -> Json:
    """Returns an example of this type for the customer, with prices of the config. Raises InvalidEvent.

    All its ids follow the customer's, so that a refund fits the invoice that was triggered before. `changes` are
    `path=value` within the event's object (see `with_changes`). An own event of a plugin is like the plugin's example.
    """
    own = next((one for plugin in installed() for one in plugin.examples if one["type"] == type_), None)
    if type_ not in EXAMPLES and (own is None or type_ not in own_event_types()):
        raise InvalidEvent(f"there is no example event of type {type_}; `billing trigger list` prints all types")
    if not _CUSTOMER_ID.fullmatch(customer):
        raise InvalidEvent(f"--customer {customer!r:.60}: expected an id such as cus_42")
    names: dict[str, str] = dict(example_prices(config))
    if own is not None and type_ in own_event_types():
        event = {**own, "id": _new_id(type_), "created": created}
    else:
        event = example(type_, created, StripeEvents(shape))
    event["data"] = _renamed(event["data"], names, customer.removeprefix("cus_"))
    return with_changes(event, changes)


def link_before(type_: str, created: int, config: Config, *, customer: str, shape: ApiShape) -> Json | None:
    """Returns the event that Stripe has sent before one of this type: it says which invoice the payment is of.

    None for other types, and for older API versions, whose charges name their invoice. Raises InvalidEvent.
    """
    if shape is not ApiShape.NEW or not type_.startswith(_OF_A_PAYMENT):
        return None
    return make_event(_LINK, created, config, customer=customer, shape=shape)


def read_event(text: bytes, type_: str, created: int, *, shape: ApiShape, changes: Sequence[str] = ()) -> Json:
    """Returns the event in this JSON text, or an event of this type around the object in it. Raises InvalidEvent.

    It gets an id and a time of its own, because the ledger would drop an event that it knows.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"--file: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("object"), str):
        raise InvalidEvent("--file: expected a Stripe event, or an object with the field `object`")
    if found["object"] != "event":
        found = StripeEvents(shape).event(type_, found, created)
    elif found.get("type") != type_:
        raise InvalidEvent(f"--file: has an event of type {found.get('type')!r:.80}, not {type_}")
    elif found.get("livemode") is not False:
        raise InvalidEvent("--file: has an event of live mode: only test events can be triggered")
    return with_changes(found | {"id": _new_id(type_), "created": created}, changes)


def endpoint_for(type_: str, config: Config) -> str:
    """Returns the endpoint that takes events of this type, if none is given. Raises InvalidEvent."""
    if type_ not in own_event_types():
        return "default"
    found = next((name for name, endpoint in config.endpoints.items() if endpoint.own_events), None)
    if found is None:
        raise InvalidEvent(f"{type_} is an own event of a plugin, and no endpoint of the config has own_events = true")
    return found


def _new_id(type_: str) -> str:
    return f"{OWN_ID if type_ in own_event_types() else 'evt_'}{secrets.token_hex(12)}"


def with_changes(event: Json, changes: Sequence[str]) -> Json:
    """Sets `path=value` within the event's object and returns the event. Raises InvalidEvent.

    A path has dots between names and indexes (`items.data.0.quantity`); all but its last name must exist. A value that
    is not JSON is text.
    """
    data = event.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    if changes and not isinstance(obj, dict):
        raise InvalidEvent("--set: the event has no object in data.object")
    for change in changes:
        path, sign, value = change.partition("=")
        if not sign or not path:
            raise InvalidEvent(f"--set {change!r:.80}: expected path=value")
        _set(obj, path.split("."), _value(value), change)
    if isinstance(obj, dict):
        for name in _ID_FIELDS:
            given = obj.get(name)
            if isinstance(given, str) and not _ID.fullmatch(given):
                raise InvalidEvent(f"{name} {given!r:.60} is not an id")
    return event


def example_prices(config: Config) -> Mapping[str, str]:
    """Returns the config's price for each price of the examples: of the plans `pro` and `team`, else of paid plans."""
    paid = {name: plan.prices for name, plan in config.plans.items() if name != FREE_PLAN and plan.prices}
    if not paid:
        return {}
    pro = "pro" if "pro" in paid else next(iter(paid))
    others = [name for name in ("team", *reversed(paid)) if name in paid and name != pro]
    team = paid[others[0]][0] if others else paid[pro][-1]
    return {"price_pro": paid[pro][0], "price_team": team}


def _renamed(value: Any, prices: Mapping[str, str], owner: str) -> Any:
    """Return the value with the examples' prices and ids replaced, at any depth."""
    if isinstance(value, dict):
        return {name: _renamed(one, prices, owner) for name, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, prices, owner) for one in value]
    if not isinstance(value, str):
        return value
    if (found := _OF_CUSTOMER.fullmatch(value)) is not None:
        return value if owner == "1" else found[1] + owner + ("" if found[2] == "1" else f"_{found[2]}")
    return prices.get(value, value)


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _set(target: Any, path: Sequence[str], value: Any, change: str) -> None:
    for name in path[:-1]:
        target = _child(target, name, change)
    last = path[-1]
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list) and last.isdecimal() and int(last) < len(target):
        target[int(last)] = value
    else:
        raise InvalidEvent(f"--set {change!r:.80}: the object has no such path")


def _child(target: Any, name: str, change: str) -> Any:
    if isinstance(target, dict) and name in target:
        return target[name]
    if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
        return target[int(name)]
    raise InvalidEvent(f"--set {change!r:.80}: the object has no such path")
