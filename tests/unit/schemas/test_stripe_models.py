"""The models of Stripe's objects: strict for money and identity, tolerant for all other fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from local.stripe.builder import ApiShape, StripeEvents
from schemas.stripe.customer import StripeCustomer
from schemas.stripe.fields import is_currency
from schemas.stripe.invoice import StripeInvoice
from schemas.stripe.subscription import StripeSubscription, previous_items

OLD, NEW = StripeEvents(ApiShape.OLD), StripeEvents(ApiShape.NEW)


def test_unknown_fields_are_ignored() -> None:
    assert StripeSubscription.model_validate(NEW.subscription(brand_new={"a": 1})).id == "sub_1"


def test_a_2016_sample_has_only_a_plan() -> None:
    plan = {"id": "gold", "amount": 2000, "currency": "aud", "interval": "month", "interval_count": 1, "name": "Gold"}
    sample = {"id": "sub_1", "customer": "cus_1", "status": "active", "plan": plan, "quantity": 1}
    read = StripeSubscription.model_validate(sample)
    (item,) = read.items
    assert (item.price, item.name, item.unit_amount, item.currency, item.quantity) == ("gold", "Gold", 2000, "aud", 1)


def test_an_expanded_customer_is_its_id() -> None:
    assert StripeSubscription.model_validate(NEW.subscription(customer={"id": "cus_7"})).customer == "cus_7"  # type: ignore[arg-type]  # expanded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", None),
        ("id", 7),
        ("customer", ""),
        ("customer", {"object": "customer", "id": 7}),
        ("status", "hibernating"),
        ("trial_end", 1.5),
        ("trial_end", True),
        ("trial_end", "2027-01-01"),
        ("trial_end", 10**15),
        ("trial_end", -1),
        ("items", "si_1"),
        ("items", {"data": ["si_1"]}),
    ],
)
def test_an_invalid_subscription_is_an_error(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        StripeSubscription.model_validate(NEW.subscription() | {field: value})


@pytest.mark.parametrize("amount", [29.0, True, "2900", -(2**63) - 1])
def test_a_price_must_be_an_integer(amount: object) -> None:
    subscription = NEW.subscription()
    subscription["items"]["data"][0]["price"]["unit_amount"] = amount
    with pytest.raises(ValidationError, match="unit_amount"):
        StripeSubscription.model_validate(subscription)


@pytest.mark.parametrize("make", [OLD, NEW])
def test_the_subscription_of_an_invoice(make: StripeEvents) -> None:
    assert StripeInvoice.model_validate(make.invoice()).subscription == "sub_1"
    assert StripeInvoice.model_validate(make.invoice(subscription=None)).subscription is None


def test_the_subscription_may_be_named_in_the_lines_only() -> None:
    new = NEW.invoice() | {"parent": None}
    assert StripeInvoice.model_validate(new).subscription == "sub_1"


def test_all_payments_of_an_invoice_if_expanded() -> None:
    payments = {"data": [{"is_default": False, "payment": {"payment_intent": "pi_a"}}, {"is_default": True, "payment": {"payment_intent": "pi_b"}}]}  # fmt: skip  # noqa: E501  # one value
    assert StripeInvoice.model_validate(NEW.invoice(payments=payments)).payment_intents == ("pi_a", "pi_b")


def test_an_invoice_from_before_amount_paid() -> None:
    invoice = OLD.invoice(status="paid", amount=1500)
    del invoice["amount_paid"]
    assert StripeInvoice.model_validate(invoice).paid_amount == 1500


def test_a_deleted_customer_is_just_an_id() -> None:
    read = StripeCustomer.model_validate({"id": "cus_1", "object": "customer", "deleted": True})
    assert (read.id, read.email, read.name) == ("cus_1", None, None)


def test_an_empty_text_is_none() -> None:
    assert StripeCustomer.model_validate(NEW.customer(name="", email="")).name is None


@pytest.mark.parametrize(
    ("previous", "price"),
    [
        ({"items": {"data": [{"price": {"id": "price_a"}}]}}, "price_a"),
        ({"items": {"data": [{"plan": {"id": "plan_a"}}]}}, "plan_a"),
        ({"plan": {"id": "OLD_PLAN_ID"}}, "OLD_PLAN_ID"),
        ({"items": {"data": [{"quantity": 2}]}}, None),
        ({"items": {"data": []}}, None),
        ({"items": "?"}, None),
        ({"plan": {"id": 7}}, None),
        ({"status": "trialing"}, None),
    ],
)
def test_the_price_replaced_by_an_update(previous: dict[str, Any], price: str | None) -> None:
    assert [item.price for item in previous_items(previous)] == ([] if price is None else [price])


def test_currencies_are_iso_4217_codes_in_lower_case() -> None:
    assert all(map(is_currency, ("eur", "usd", "jpy", "kwd", "isk")))
    assert not any(map(is_currency, ("EUR", "euro", "zzz", "")))
