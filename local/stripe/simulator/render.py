"""Both API shapes of an object. The books keep the newest; the older ones are made from it.

https://docs.stripe.com/changelog/basil: the period of a subscription moved to its items, the subscription of an invoice
to `parent`, and charges and payment intents stopped naming their invoice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from local.stripe.builder import ApiShape

Json = dict[str, Any]


def rendered(obj: Json, shape: ApiShape) -> Json:
    """Returns the object as this API version shows it. Takes over `obj`."""
    make = _OLD.get(obj.get("object", "")) if shape is ApiShape.OLD else _NEW.get(obj.get("object", ""))
    shown = make(obj) if make is not None else obj
    return _public(shown)


def _public(obj: Json) -> Json:
    """Returns the object without what only the simulator knows."""
    return {name: value for name, value in obj.items() if not name.startswith("_")}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """Returns `previous_attributes`: what changed, as it was before. Lists are shown whole."""
    changed: Json = {}
    for name in {**before, **after}:
        was, is_ = before.get(name), after.get(name)
        if was == is_:
            continue
        both = isinstance(was, Mapping) and isinstance(is_, Mapping)
        changed[name] = differences(was, is_) if both and was and is_ else was
    return changed


def plan_of(price: Json) -> Json:
    """Returns the price as a plan, as older API versions show it."""
    recurring = price["recurring"] or {}
    return {
        "id": price["id"],
        "object": "plan",
        "active": True,
        "aggregate_usage": None,
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring.get("interval"),
        "interval_count": recurring.get("interval_count"),
        "livemode": False,
        "metadata": {},
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": recurring.get("usage_type"),
    }


def _old_subscription(obj: Json) -> Json:
    items = obj["items"]["data"]
    only = items[0] if len(items) == 1 else None
    plan = plan_of(only["price"]) if only else None
    period = {name: items[0][name] for name in _PERIOD} if items else {}
    shown = [
        {name: value for name, value in _public(item).items() if name not in _PERIOD} | {"plan": plan_of(item["price"])}
        for item in items
    ]
    obj.pop("billing_mode", None)
    quantity = only.get("quantity") if only else None
    discounts = obj.get("_discounts", [])
    discount = rendered(discounts[0], ApiShape.OLD) if discounts else None
    own = {"items": obj["items"] | {"data": shown}, "plan": plan, "quantity": quantity, "discount": discount}
    return obj | period | own


def _new_subscription(obj: Json) -> Json:
    return obj | {"items": obj["items"] | {"data": [_public(item) for item in obj["items"]["data"]]}}


def _old_discount(obj: Json) -> Json:
    """Shows the coupon itself; since clover `source` names it."""
    return {name: value for name, value in obj.items() if name != "source"} | {"coupon": dict(obj["_coupon"])}


def _old_customer(obj: Json) -> Json:
    return obj | {"discount": rendered(obj["discount"], ApiShape.OLD)} if obj.get("discount") else obj


def _new_customer(obj: Json) -> Json:
    return obj | {"discount": _public(obj["discount"])} if obj.get("discount") else obj


_PERIOD = ("current_period_start", "current_period_end")


def _old_invoice(obj: Json) -> Json:
    obj.pop("parent", None)
    obj["lines"] = obj["lines"] | {"data": [_old_line(line) for line in obj["lines"]["data"]]}
    return obj | {
        "charge": obj.get("_charge"),
        "discount": None,
        "paid": obj["status"] == "paid",
        "payment_intent": obj.get("_intent"),
        "subscription": obj.get("_subscription"),
        "tax": None,
        "total_tax_amounts": [],
    }


def _old_line(line: Json) -> Json:
    details = line["parent"]["subscription_item_details"] or line["parent"]["invoice_item_details"]
    is_own = line["parent"]["type"] == "subscription_item_details"
    price = line["_price"]
    rest = {name: value for name, value in line.items() if name not in ("parent", "pricing", "_price")}
    return rest | {
        "plan": plan_of(price) if price and price["recurring"] else None,
        "price": price,
        "proration": details["proration"],
        "subscription": details["subscription"],
        "subscription_item": details.get("subscription_item"),
        "type": "subscription" if is_own else "invoiceitem",
    }


def _new_invoice(obj: Json) -> Json:
    lines = [{name: value for name, value in line.items() if name != "_price"} for line in obj["lines"]["data"]]
    return obj | {"lines": obj["lines"] | {"data": lines}}


def _old_charge(obj: Json) -> Json:
    return obj | {"invoice": obj.get("_invoice")}


def _new_intent(obj: Json) -> Json:
    invoice = obj.get("_invoice")
    return obj | ({"payment_details": {"order_reference": invoice}} if invoice else {})


_OLD: Mapping[str, Callable[[Json], Json]] = {
    "customer": _old_customer,
    "discount": _old_discount,
    "subscription": _old_subscription,
    "invoice": _old_invoice,
    "charge": _old_charge,
    "payment_intent": _old_charge,
}
_NEW: Mapping[str, Callable[[Json], Json]] = {
    "customer": _new_customer,
    "subscription": _new_subscription,
    "invoice": _new_invoice,
    "payment_intent": _new_intent,
}
