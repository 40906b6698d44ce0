"""Triggered events fit the config and each other."""

from __future__ import annotations

import re

import orjson
import pytest

from local.stripe.builder import ApiShape, Json
from local.stripe.events import EXAMPLES
from local.stripe.trigger import InvalidEvent, endpoint_for, example_prices, link_before, make_event, read_event
from schemas.plugin import Plugin
from schemas.plugin_registry import installed_for
from schemas.settings import Config, Endpoint, Plan
from schemas.state import Payment
from tests.kits.paymentkit import PatientWorld

CONFIG = Config(
    plans={
        "free": Plan(name="Free"),
        "starter": Plan(name="Starter", prices=("price_starter_monthly",)),
        "pro": Plan(name="Pro", prices=("price_pro_monthly", "price_pro_yearly")),
    }
)


def _event(type_: str, *changes: str, customer: str = "cus_42") -> Json:
    return make_event(type_, 1_700_000_000, CONFIG, customer=customer, shape=ApiShape.NEW, changes=changes)


@pytest.mark.parametrize("shape", ApiShape)
@pytest.mark.parametrize("type_", EXAMPLES)
def test_no_id_of_another_customer_and_no_unknown_price_is_left(type_: str, shape: ApiShape) -> None:
    made = make_event(type_, 1_700_000_000, CONFIG, customer="cus_42", shape=shape)
    text = orjson.dumps(made["data"]).decode()
    left = set(re.findall(r'"((?:cus|sub|in|ch|pi|pm|dp|re|si|card|user|cs_test|price)_(?:1|0|pro|team))"', text))
    assert left == set()


def test_the_price_is_of_the_plan_pro() -> None:
    subscription = _event("customer.subscription.created")["data"]["object"]
    assert CONFIG.plan_of_price(subscription["items"]["data"][0]["price"]["id"]) == "pro"
    assert example_prices(CONFIG)["price_team"] == "price_starter_monthly"
    assert example_prices(Config()) == {}


def test_refund_and_dispute_name_the_same_payment() -> None:
    paid = orjson.dumps(_event("invoice_payment.paid")["data"]).decode()
    refund = _event("charge.refunded")["data"]["object"]
    dispute = _event("charge.dispute.created")["data"]["object"]
    assert refund["payment_intent"] == dispute["payment_intent"] == "pi_42"
    assert refund["id"] == dispute["charge"] == "ch_42"
    assert '"pi_42"' in paid
    assert '"in_42"' in paid


@pytest.mark.parametrize(
    "type_", [type_ for type_ in EXAMPLES if type_.startswith(("charge.dispute", "charge.refunded", "refund."))]
)
def test_a_triggered_refund_or_dispute_finds_the_invoice_of_its_customer(type_: str) -> None:
    """In the newer API version neither names the invoice, and a payment that is unknown would make it wait."""
    world = PatientWorld(CONFIG)
    for paid in ("customer.subscription.created", "invoice.paid"):
        world.apply(_event(paid))
    link = link_before(type_, 1_700_000_000, CONFIG, customer="cus_42", shape=ApiShape.NEW)
    assert link is not None
    for event in (link, _event(type_)):
        world.apply(event)
    (payment,) = world.rows(Payment)
    assert (payment.invoice_id, payment.payment_intent_id) == ("in_42", "pi_42")
    assert payment.disputes or payment.refunds or payment.refunded_amount == 2900


def test_other_types_and_charges_that_name_their_invoice_need_no_link() -> None:
    assert link_before("invoice.paid", 0, CONFIG, customer="cus_42", shape=ApiShape.NEW) is None
    assert link_before("charge.refunded", 0, CONFIG, customer="cus_42", shape=ApiShape.OLD) is None


def test_fields_can_be_set() -> None:
    changed = _event("customer.subscription.created", "items.data.0.quantity=5", "status=past_due", "new_field=[1]")
    obj = changed["data"]["object"]
    assert (obj["items"]["data"][0]["quantity"], obj["status"], obj["new_field"]) == (5, "past_due", [1])


@pytest.mark.parametrize("change", ["x", "=1", "items.data.9.quantity=1", "no.such.path=1", 'id="a b"', "id=x\x07"])
def test_a_wrong_change_is_refused(change: str) -> None:
    with pytest.raises(InvalidEvent):
        _event("customer.subscription.created", change)


@pytest.mark.parametrize("customer", ['cus_"x', "42", "cus_", "cus_a b", "cus_\x1b", "cus_" + "x" * 300])
def test_a_customer_must_be_an_id(customer: str) -> None:
    with pytest.raises(InvalidEvent):
        _event("invoice.paid", customer=customer)


def test_a_file_may_have_an_event_or_an_object() -> None:
    event = _event("invoice.paid")
    for text in (orjson.dumps(event), orjson.dumps(event["data"]["object"])):
        made = read_event(text, "invoice.paid", 1_700_000_001, shape=ApiShape.NEW, changes=["amount_due=7"])
        assert (made["type"], made["created"]) == ("invoice.paid", 1_700_000_001)
        assert made["id"] != event["id"]
        assert made["data"]["object"]["amount_due"] == 7


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"object":"event","type":"x"}'])
def test_another_file_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidEvent):
        read_event(text, "invoice.paid", 1, shape=ApiShape.NEW)


def test_a_live_event_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="live mode"):
        read_event(orjson.dumps(_event("invoice.paid") | {"livemode": True}), "invoice.paid", 1, shape=ApiShape.NEW)


def test_F5_an_own_event_of_a_plugin_is_made_of_its_example_or_a_file() -> None:
    """Its id begins as those of own events do, or the endpoint refuses it."""
    made = {"id": "own_1", "object": "event", "type": "tried.made", "created": 1, "livemode": False}
    example_event = made | {"data": {"object": {"id": "x_1", "customer": "cus_1", "used": 5}}}
    endpoints = {"default": Endpoint(), "product": Endpoint(own_events=True)}
    with installed_for(Plugin("tried", own_events=("tried.made",), examples=(example_event,))):
        event = make_event(
            "tried.made", 1_700_000_000, CONFIG, customer="cus_42", shape=ApiShape.NEW, changes=["used=7"]
        )
        assert event["data"]["object"] == {"id": "x_1", "customer": "cus_42", "used": 7}
        assert example_event["data"] == {"object": {"id": "x_1", "customer": "cus_1", "used": 5}}
        of_file = read_event(orjson.dumps(example_event), "tried.made", 1_700_000_000, shape=ApiShape.NEW)
        assert {event["id"][:4], of_file["id"][:4]} == {"own_"}
        assert event["id"] != of_file["id"]
        assert endpoint_for("tried.made", CONFIG.model_copy(update={"endpoints": endpoints})) == "product"
        assert endpoint_for("invoice.paid", CONFIG) == "default"
        with pytest.raises(InvalidEvent, match="no endpoint of the config has own_events"):
            endpoint_for("tried.made", CONFIG)
