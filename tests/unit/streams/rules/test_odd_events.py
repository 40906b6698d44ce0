"""Odd values in any field of an event: the rules apply it or call it a poison event, and the mails can be written."""

from __future__ import annotations

import random

import orjson
import pytest

from local.stripe.builder import StripeEvents
from local.stripe.events import example
from local.stripe.payments import dispute
from schemas.effects import QueueEmail
from schemas.errors import NotKnownYet, Poison, RuleViolated
from schemas.mail import read_mail
from schemas.state import Dispute
from streams.apply import apply
from streams.decode import decode
from streams.rules.catalog import RULES
from tests.chaos.odd import odd_event
from tests.kits.rulekit import NOW, RulesWorld, decide_with

MAKE = StripeEvents()
HISTORY = ("customer.created", "customer.subscription.created", "invoice.paid", "charge.succeeded")


@pytest.mark.parametrize("seed", range(20))
def test_no_value_is_an_unforeseen_error(seed: int) -> None:
    """Such an error would count as one of the code, and stop the worker if it came often."""
    chance = random.Random(seed)
    world = RulesWorld().apply(*(example(type_, NOW) for type_ in HISTORY))
    applied = 0
    for number in range(100):
        _, body = odd_event(chance, number)
        try:
            decoded = decode(body, RULES)
            if decoded.event is None or decoded.rule is None:
                continue
            outcome = apply(decide_with(decoded.rule, decoded.event, world.known), decoded.event, world.known)
        except (Poison, NotKnownYet):
            continue
        for order in outcome.orders:
            if isinstance(order, QueueEmail):
                read_mail(order.template, order.data)
        applied += 1
    assert applied > 10


def test_C9_a_later_event_of_a_dispute_may_name_fewer_objects_and_no_other_ones() -> None:
    first = dispute(MAKE, "dp_1", charge="ch_1", payment_intent="pi_1", created=NOW)
    world = RulesWorld().apply(MAKE.event("charge.dispute.created", first, NOW))
    world.apply(MAKE.event("charge.dispute.updated", first | {"payment_intent": None, "amount": 5}, NOW + 1))
    (row,) = world.rows(Dispute)
    assert (row.charge_id, row.payment_intent_id, row.amount) == ("ch_1", "pi_1", 5)
    for other in ({"charge": "ch_2"}, {"payment_intent": "pi_2"}, {"charge": None, "payment_intent": None}):
        with pytest.raises((RuleViolated, Poison)):
            world.apply(MAKE.event("charge.dispute.closed", first | other, NOW + 2))


def test_B3_an_interval_that_the_texts_do_not_know_is_left_out() -> None:
    """Also one in `previous_attributes`, which no model has checked."""
    data = {"plan": "Pro", "interval": "fortnight", "previous_interval": "x"}
    mail = read_mail("plan-changed", data)
    assert (mail.interval, mail.previous_interval) == (None, None)  # type: ignore[attr-defined]  # the template's model
    assert orjson.loads(mail.model_dump_json())["plan"] == "Pro"
