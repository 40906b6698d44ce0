"""The catalogue of rules, the example of each event type, and real events recorded by other projects."""

from __future__ import annotations

import pytest

from local.stripe.builder import ApiShape, StripeEvents
from local.stripe.events import EXAMPLES, example
from schemas.effects import QueueEmail
from schemas.errors import NotKnownYet, NotReferred
from schemas.known import Known
from schemas.mail import MAILS, read_mail
from schemas.references import References
from streams.apply import apply
from streams.apply import decide as streams_decide
from streams.decode import decode
from streams.rules.catalog import RULES, STREAMS, rule_of, stream_of
from streams.rules.registry import OTHER
from tests.kits.rulekit import CONFIG, MAKERS, NOW, RulesWorld, decide_with, read
from tests.paths import RECORDED_EVENTS

REAL_EVENTS = RECORDED_EVENTS


def test_C13_other_types_have_no_rule() -> None:
    assert rule_of("product.created") is None
    assert stream_of("product.created") == OTHER


def test_each_type_belongs_to_one_stream() -> None:
    assert len(RULES) == sum(len(stream.rules) for stream in STREAMS.values())
    assert stream_of("invoice.paid") == "invoices"
    assert stream_of("customer.subscription.deleted") == "subscriptions"


@pytest.mark.parametrize("shape", list(ApiShape))
@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_each_example_is_decided(type_: str, shape: ApiShape) -> None:
    """Rules read only rows that their `refer` names, and queue mails that the e-mail sink can render."""
    try:
        world = RulesWorld().apply(example(type_, NOW, StripeEvents(shape)))
    except NotKnownYet:
        assert (
            "refund" in type_ or "credit_note" in type_
        ) or type_ == "invoice_payment.paid"  # these wait for their payment
        return
    assert world.stale == []
    assert {email.template for email in world.emails.values()} <= MAILS.keys()


def test_every_rule_has_an_example() -> None:
    """`billing trigger TYPE` and the tests below iterate over the examples. Timers and plans are this project's own."""
    assert {
        type_ for type_ in RULES if not type_.startswith(("timer.", "plans.", "erasure."))
    } - EXAMPLES.keys() == set()


USE_NO_ROWS = {"checkout.session.expired"}
"""Its rule only records the event; it shares the `refer` of the other checkout events."""


@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_a_rule_without_its_refer_fails(type_: str) -> None:
    """So a declaration that is forgotten fails here and names the row."""
    event, rule = read(example(type_, NOW, MAKERS[0]))
    if rule.refer(event) == References() or type_ in USE_NO_ROWS:
        return
    with pytest.raises(NotReferred, match="`refer`"):
        streams_decide(rule, event, Known(CONFIG), References())


@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_a_rule_names_timers_that_a_customer_may_have_hundreds_of_by_their_subject(type_: str) -> None:
    """Each open invoice, card and dispute has its own. All of a kind are read only where they are few."""
    event, rule = read(example(type_, NOW, MAKERS[0]))
    assert {kind for kind, subject in rule.refer(event).timers_of if not subject} <= {"win-back", "erase"}


@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_both_shapes_read_as_the_same_object(type_: str) -> None:
    """Rules never see an API version. The only differences are fields without a substitute in the new shape."""
    left_out = {"invoice.": {"charges", "payment_intents"}, "charge.": {"invoice"}}
    without = next((fields for stem, fields in left_out.items() if type_.startswith(stem)), set())
    old, new = (read(example(type_, NOW, StripeEvents(shape)))[0].object for shape in ApiShape)
    assert old.model_dump(exclude=without) == new.model_dump(exclude=without)


@pytest.mark.skipif(not REAL_EVENTS.is_dir(), reason="no folder of real events next to the repository")
def test_real_events_are_decided_without_error() -> None:
    """All events recorded by other projects, 2013 to 2025, that have a rule."""
    decided = 0
    for path in sorted(REAL_EVENTS.glob("*/*.json")):
        if b'"object"' not in (value := path.read_bytes()) or path.parent.name == "stripe-python":
            continue  # thin events have no rule here
        decoded = decode(value, RULES)
        if decoded.event is None or decoded.rule is None:
            continue
        known = Known(CONFIG)
        try:
            effects = decide_with(decoded.rule, decoded.event, known)
        except NotKnownYet:
            continue  # the object it refers to is not stored, so the event would wait
        outcome = apply(effects, decoded.event, known)
        for email in outcome.orders:
            if isinstance(email, QueueEmail):
                read_mail(email.template, email.data)
        decided += 1
    assert decided >= 70
