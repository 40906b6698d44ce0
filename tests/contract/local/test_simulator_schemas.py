"""The simulator's objects against Stripe's own description of its API: names, types, nulls and listed values.

stripe-mock contains the description (`go install github.com/stripe/stripe-mock@v0.203.0`). Without it the test is
skipped. Every difference that is left has its reason here, and a reason that is no longer needed fails.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from local.stripe.builder import ApiShape, Json
from local.stripe.simulator.lives import Life, random_steps
from local.stripe.simulator.render import rendered
from local.stripe.simulator.stripe import SimulatedStripe
from tests.kits.lifekit import START

STRIPE_MOCK = shutil.which("stripe-mock")
LIVES = 60

UNREAD = {
    "checkout.session": "automatic_tax custom_fields custom_text shipping_options invoice_creation.invoice_data",
    "credit_note": (
        "amount_shipping discount_amount discount_amounts lines number pdf pretax_credit_amounts subtotal total"
    ),
    "dispute": "enhanced_eligibility_types evidence.enhanced_evidence evidence_details.enhanced_eligibility",
    "dispute.balance_transactions[]": "available_on balance_type fee fee_details net reporting_category status type",
    "invoice": "amount_paid_off_stripe amount_shipping automatic_tax default_tax_rates issuer payment_settings",
    "invoice.lines.data[]": "discounts subtotal",
    "subscription": "billing_schedules invoice_settings",
    "subscription_schedule": "billing_mode default_settings",
    "subscription_schedule.phases[]": (
        "add_invoice_items currency discounts end_date items[].discounts proration_behavior"
    ),
}
"""Required fields that the simulator leaves out: no model of ours reads them (tests/unit/local/simulator)."""

EXPLAINED = {
    f"{prefix}.{name} is missing": "no model reads it" for prefix, names in UNREAD.items() for name in names.split()
} | {
    "checkout.session.ui_mode is 'hosted', which is not listed": "renamed `hosted_page` in 2026",
    "deleted_customer.created is not known": "lists are paged by it; no model reads it",
    "invoice.lines.total_count is not known": "lists of older versions have it",
    "subscription.items.total_count is not known": "lists of older versions have it",
    "subscription.items.data[].price.recurring.trial_period_days is not known": "removed in 2025; no model reads it",
}


@cache
def schemas() -> Mapping[str, Json]:
    """The schemas of stripe-mock's embedded OpenAPI document, by name."""
    content = Path(STRIPE_MOCK or "").read_bytes()
    begin = content.index(b'{\n  "components": {\n    "schemas": {\n      "account"')
    document, _ = json.JSONDecoder().raw_decode(content[begin : begin + 20_000_000].decode("utf-8", "replace"))
    found: Mapping[str, Json] = document["components"]["schemas"]
    return found


TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def faults(value: Any, schema: Json, path: str) -> Iterator[str]:
    """How the value differs from the schema, one line each."""
    schema = schemas()[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if value is None:
        if not schema.get("nullable"):
            yield f"{path} is null"
    elif "anyOf" in schema:
        yield from min((list(faults(value, one, path)) for one in schema["anyOf"]), key=len)
    elif (type_ := schema.get("type")) and TYPES[type(value)] not in {type_, "integer" if type_ == "number" else type_}:
        yield f"{path} is of type {TYPES[type(value)]} and not {type_}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path} is {value!r}, which is not listed"
    elif isinstance(value, list):
        for one in value:
            yield from faults(one, schema.get("items", {}), f"{path}[]")
    elif isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        for name, one in value.items():
            if name in known:
                yield from faults(one, known[name], f"{path}.{name}")
            elif not schema.get("additionalProperties"):
                yield f"{path}.{name} is not known"
        yield from (f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value)


def found_in_lives() -> set[str]:
    found: set[str] = set()
    for seed in range(LIVES):
        stripe = SimulatedStripe(START)
        Life(stripe, stripe.books).live(random_steps(random.Random(seed), 15))
        for kind, objects in stripe.books.objects.items():
            for obj in objects.values():
                name = f"deleted_{kind}" if obj.get("deleted") else kind
                found |= set(faults(rendered(orjson.loads(orjson.dumps(obj)), ApiShape.NEW), schemas()[name], name))
    return found


@pytest.mark.skipif(STRIPE_MOCK is None, reason="stripe-mock is not on the PATH")
def test_the_simulators_objects_are_as_stripe_describes_them() -> None:
    found = found_in_lives()
    assert sorted(found - EXPLAINED.keys()) == []
    assert sorted(EXPLAINED.keys() - found) == []


@pytest.mark.skipif(STRIPE_MOCK is None, reason="stripe-mock is not on the PATH")
def test_each_kind_of_difference_is_found() -> None:
    customer = {"id": "cus_1", "object": "custom", "created": "now", "livemode": None, "seats": 3}
    assert sorted(faults(customer, schemas()["customer"], "customer")) == [
        "customer.created is of type string and not integer",
        "customer.livemode is null",
        "customer.object is 'custom', which is not listed",
        "customer.seats is not known",
    ]
    assert "customer.id is missing" in set(faults({}, schemas()["customer"], "customer"))
