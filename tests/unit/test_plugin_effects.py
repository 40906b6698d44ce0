"""F5: what a plugin's effects do to stored rows and to erased customers, and which of them are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from local.stripe.builder import StripeEvents
from local.stripe.events import EXAMPLES, example
from schemas.effects import Announce, CancelTimers, Effect, FinishTimer, QueueEmail, StartTimer
from schemas.errors import NotKnownYet, NotReferred, RuleViolated
from schemas.event import Event
from schemas.fast_row import replace
from schemas.feed_settings import TYPES, Feed
from schemas.known import Known
from schemas.mail import BUILT_IN_MAILS
from schemas.plugin import AnyObject, Plugin, PluginRule
from schemas.plugin_names import RESERVED
from schemas.plugin_registry import UnusablePlugin, installed_for
from schemas.record import Record
from schemas.references import References
from schemas.state import Customer, Timer
from schemas.statuses import TimerStatus
from schemas.timer import TimerDue, timer_event
from schemas.verdict import Dead
from streams.apply import EventOutcome, apply, decide, decide_more
from streams.decode import decode
from streams.item import Item
from streams.process import Processor
from streams.rules.catalog import RULES
from streams.rules.timers import is_due
from tests.kits.rulekit import CONFIG, NOW, at

MAKE = StripeEvents()
ABOUT: dict[str, Any] = {"account": "", "customer_id": "cus_1"}
MAIL = QueueEmail(key="acme-hello::1", template="operator-alert", data={"title": "Jane Doe"}, **ABOUT)
START = StartTimer(key="acme:1", kind="acme.call", subject="1", due_at=at(NOW + 60), data={"who": "Jane"}, **ABOUT)
NEWS = Announce(type="acme.news", subject="1", data={"who": "Jane"}, **ABOUT)
OPEN = Timer(
    timer_key="acme:1", account="", customer_id="cus_1", kind="acme.call", subject="1", due_at=at(NOW),
    status=TimerStatus.FIRED, livemode=False, event_id="evt_0",
)  # fmt: skip
ERASED = Customer(account="", customer_id="cus_1", erased_at=at(NOW))
OWN = {**MAKE.event("acme.made", {"id": "x_1", "customer": "cus_1"}, NOW), "id": "own_1"}


class WithId(BaseModel):
    """What a rule of a timer reads if it does not use TimerDue."""

    id: str


def _plugin(type_: str, effects: Sequence[Effect], **given: Any) -> Plugin:
    plugin = Plugin("acme", own_events=("acme.made",), notifications=("acme.news",))
    plugin.on(type_, **({"model": AnyObject} | given))(lambda _event, _known: list(effects))
    return plugin


def _applied(event: dict[str, Any], known: Known) -> EventOutcome:
    """Applies the event as the worker does."""
    decoded = decode(orjson.dumps(event), RULES)
    assert decoded.event is not None
    assert decoded.rule is not None
    effects = decide(decoded.rule, decoded.event, known, decoded.rule.refer(decoded.event))
    return apply([*effects, *decide_more(decoded.more, known)], decoded.event, known)


@pytest.fixture
def known() -> Known:
    return Known(CONFIG, [OPEN])


def test_F5_a_rule_without_refer_cancels_and_finishes_timers(known: Known) -> None:
    """The event's customer and its timer are always loaded, and is_due may ask for them."""
    cancel = CancelTimers(kinds=("acme.call",), **ABOUT)
    with installed_for(_plugin("acme.made", [cancel])):
        decoded = decode(orjson.dumps(OWN), RULES)
        (more,) = decoded.more
        assert more[0].references(more[1]).customers == {("", "cus_1")}
        assert more[0].references(more[1]).timers_of == {("acme*", "")}
        _applied(OWN, known)
    assert known.find(Timer, ("acme:1",)) == replace(OPEN, status=TimerStatus.CANCELLED)
    due = timer_event(OPEN)
    for model in (TimerDue, WithId):
        plugin = _plugin("timer.acme.call", [FinishTimer("acme:1")], model=model)
        rows = Known(CONFIG, [OPEN])
        with installed_for(plugin):
            _applied(due, rows)
        done = rows.find(Timer, ("acme:1",))
        assert done is not None, model
        assert done.status is TimerStatus.DONE


def test_F5_the_timer_of_an_event_is_loaded_for_is_due(known: Known) -> None:
    plugin = Plugin("acme")

    @plugin.on("timer.acme.call", model=TimerDue)
    def finish(event: Event[TimerDue], known: Known) -> list[Effect]:
        return [FinishTimer(event.object.timer_key)] if is_due(event, known) else []

    with installed_for(plugin):
        decoded = decode(orjson.dumps(timer_event(OPEN)), RULES)
        assert [rule.references(event).timers for rule, event in decoded.more] == [{"acme:1"}]
        _applied(timer_event(OPEN), known)
    done = known.find(Timer, ("acme:1",))
    assert done is not None
    assert done.status is TimerStatus.DONE


@pytest.mark.parametrize(
    "effect",
    [
        CancelTimers(account="", customer_id="cus_2", kinds=("acme.call",)),
        FinishTimer("acme:2"),
        QueueEmail(key="acme-x::1", template="operator-alert", account="", customer_id="cus_2"),
        Announce(type="acme.news", account="", customer_id="cus_2", subject="1"),
        StartTimer(key="acme:2", account="", customer_id="cus_2", kind="acme.call", subject="1", due_at=at(NOW)),
    ],
)
def test_F5_an_effect_about_what_refer_does_not_name_is_refused(known: Known, effect: Effect) -> None:
    """Otherwise it would depend on the other events of the batch."""
    with installed_for(_plugin("acme.made", [effect])), pytest.raises(NotReferred, match="refer"):
        _applied(OWN, known)
    named = References(customers={("", "cus_2")}, timers={"acme:2"})
    with installed_for(_plugin("acme.made", [effect], refer=lambda _: named)):
        _applied(OWN, known)


def test_F5_a_plugin_starts_a_timer_that_is_about_no_customer() -> None:
    """`refer` cannot name a customer that there is not. The timer's own event finishes it."""
    start = StartTimer(key="acme:9", account="", customer_id="", kind="acme.call", subject="1", due_at=at(NOW))
    known = Known(CONFIG)
    with installed_for(_plugin("acme.made", [start])):
        _applied(OWN, known)
    started = known.find(Timer, ("acme:9",))
    assert started is not None
    assert started.is_open
    with installed_for(_plugin("timer.acme.call", [FinishTimer("acme:9")], model=TimerDue)):
        _applied(timer_event(started), known)
    done = known.find(Timer, ("acme:9",))
    assert done is not None
    assert done.status is TimerStatus.DONE


def test_B6_a_plugin_stores_nothing_about_an_erased_customer() -> None:
    with installed_for(_plugin("acme.made", [MAIL, START, NEWS])):
        outcome = _applied(OWN, known := Known(CONFIG, [ERASED]))
        assert (outcome.orders, outcome.written, known.find(Timer, ("acme:1",))) == ([], [], None)
        assert [dict(one.data) for one in outcome.announced] == [{}]
        assert outcome.remark == (
            "mail operator-alert is not ordered: the customer is erased; "
            "timer acme.call is not ordered: the customer is erased"
        )
        back = Customer(account="", customer_id="cus_1", erased_at=at(NOW), returned_at=at(NOW) + timedelta(seconds=1))
        outcome = _applied(OWN, Known(CONFIG, [back]))
        assert (outcome.orders, outcome.announced) == ([MAIL], [NEWS])


def test_F5_a_plugin_may_not_wait_and_its_errors_are_verdicts() -> None:
    """Also when the project's own rule goes on without a missing object."""

    def wait(_event: Event[AnyObject], _known: Known) -> list[Effect]:
        raise NotKnownYet("a customer")

    def fail(_event: Event[AnyObject], _known: Known) -> list[Effect]:
        raise ZeroDivisionError("no seats")

    for rule, reason in ((wait, "may not wait: a customer"), (fail, "no seats")):
        plugin = Plugin("acme", own_events=("acme.made",))
        plugin.on("acme.made", "refund.created", model=AnyObject)(rule)
        with installed_for(plugin):
            for event in (OWN, example("refund.created", NOW)):
                verdict = _verdict(event)
                assert isinstance(verdict, Dead)
                assert reason in verdict.reason
            with pytest.raises((RuleViolated, ZeroDivisionError)):
                _applied(OWN, Known(CONFIG))


def _verdict(event: dict[str, Any]) -> object:
    """The verdict of the last look at an event, for which its rule may go on without a missing object."""
    unused: Any = None
    processor = Processor(
        store=unused, dead_letters=unused, rules=RULES, config=CONFIG, group="test", code_version="1", is_last_look=True
    )
    record = Record("t.events", 0, 0, b"", orjson.dumps(event), (), {}, NOW)
    item = Item(record, decoded=decode(record.value, RULES))
    assert item.decoded is not None
    assert item.decoded.rule is not None
    assert item.decoded.event is not None
    item.references = item.decoded.rule.refer(item.decoded.event)
    return processor._decide(item, Known(CONFIG), at(NOW), 9)


@pytest.mark.parametrize(
    "effect",
    [
        QueueEmail(key="acme-x::1", template="acme-undeclared", account="", customer_id="cus_1"),
        Announce(type="acme.undeclared", account="", customer_id="cus_1", subject="1"),
    ],
)
def test_F5_a_rule_orders_only_what_is_declared(effect: Effect) -> None:
    rule = PluginRule("acme.made", Plugin("acme"), AnyObject, lambda *_: [], lambda _: References())
    with pytest.raises(RuleViolated, match="plugin acme"):
        rule.check([effect])


@pytest.mark.parametrize("name", ["invoice", "trial", "timer", "payout", "issuing", "dunning", "own", "topic"])
def test_F5_a_plugin_has_no_name_with_which_names_of_others_begin(name: str) -> None:
    with pytest.raises(UnusablePlugin, match=f"of the project or of Stripe begin with {name}"):
        Plugin(name)


def test_F5_every_name_of_the_project_is_reserved() -> None:
    kinds = [type_.removeprefix("timer.") for type_ in RULES if type_.startswith("timer.")]
    names = [*RULES, *TYPES, *BUILT_IN_MAILS, *EXAMPLES, *kinds]
    assert {re.split("[._:-]", name)[0] for name in names} <= RESERVED


async def _handle(_message: object) -> None:
    """Does nothing."""


def test_F5_a_handler_and_a_destination_have_different_names() -> None:
    plugin = Plugin("acme")
    plugin.handler("crm", events=("*",))(_handle)
    url = {"url": "https://app.example.com/x"}
    with installed_for(plugin):
        feed = Feed.model_validate({"destinations": {"acme-erp": url}, "topic": True})
        assert feed.names == ["acme-erp", "acme-crm", "topic"]
        with pytest.raises(ValueError, match="'acme-crm' is the name of a plugin's handler"):
            Feed.model_validate({"destinations": {"acme-crm": url}})
    with pytest.raises(UnusablePlugin, match="no name of a handler"):
        plugin.handler("a b", events=("*",))(_handle)
