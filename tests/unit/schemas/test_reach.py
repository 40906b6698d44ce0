"""A rule uses only the rows that its `refer` names, and those that come with them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from local.stripe.builder import ApiShape, StripeEvents
from schemas.effects import CancelTimers, Effect, FinishTimer, Remove, Save, StartTimer
from schemas.errors import NotKnownYet, NotReferred
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.reach import Reach
from schemas.references import References
from schemas.state import (
    Customer,
    Dispute,
    Membership,
    Organization,
    Payment,
    PaymentLink,
    PaymentMethod,
    Row,
    Subscription,
    Timer,
    User,
)
from schemas.statuses import LinkKind, TimerStatus
from streams.apply import decide
from tests.kits.rulekit import CONFIG, NOW, read

MAKE = StripeEvents(ApiShape.NEW)
ORGANIZATION = Organization.id_of("", "cus_1")
DUE = datetime(2027, 1, 1, tzinfo=UTC)
OPEN = Timer(timer_key="t", account="", customer_id="cus_1", kind="k", subject="s", due_at=DUE)
ROWS: list[Row] = [
    Customer(account="", customer_id="cus_1", user_id="ada"),
    Organization(organization_id=ORGANIZATION, account="", customer_id="cus_1", name="o"),
    User(account="", user_id="ada"),
    Membership(organization_id=ORGANIZATION, user_id="ada"),
    Subscription(account="", subscription_id="sub_1", customer_id="cus_1"),
    Payment(payment_id="pay_1", account="", customer_id="cus_1", invoice_id="in_1", charge_id="ch_1", currency="eur"),
    PaymentMethod(account="", payment_method_id="pm_1", customer_id="cus_1"),
    Dispute(account="", dispute_id="dp_1", customer_id="cus_1"),
    OPEN,
]

READS: dict[str, tuple[Callable[[Known], object], References]] = {
    "customer": (lambda k: k.customer("", "cus_1"), References(customers={("", "cus_1")})),
    "organization": (lambda k: k.organization("", "cus_1"), References(customers={("", "cus_1")})),
    "user": (lambda k: k.user("", "ada"), References(users={("", "ada")})),
    "customers of a user": (lambda k: k.customers_of_user("", "ada"), References(users={("", "ada")})),
    "subscriptions of a user": (lambda k: k.subscriptions_of_user("", "ada"), References(users={("", "ada")})),
    "membership": (lambda k: k.membership(ORGANIZATION, "ada"), References(customers={("", "cus_1")})),
    "subscription": (lambda k: k.subscription("", "sub_1"), References(subscriptions={("", "sub_1")})),
    "subscriptions": (lambda k: k.subscriptions_of("", "cus_1"), References(customers={("", "cus_1")})),
    "payment": (lambda k: k.payment("", "in_1"), References(payments={("", "in_1")})),
    "payment method": (lambda k: k.payment_method("", "pm_1"), References(payment_methods={("", "pm_1")})),
    "payment methods": (lambda k: k.payment_methods_of("", "cus_1"), References(customers={("", "cus_1")})),
    "dispute": (lambda k: k.dispute("", "dp_1"), References(disputes={("", "dp_1")})),
    "timer": (lambda k: k.timer("t"), References(timers={"t"})),
    "timers": (lambda k: k.timers_of("", "cus_1", "k", "s"), References({("", "cus_1")}, timers_of={("k", "s")})),
    "timers of a kind": (lambda k: k.timers_of("", "cus_1", "k"), References({("", "cus_1")}, timers_of={("k", "")})),
}


def limited(references: References, *rows: Row) -> Known:
    known = Known(CONFIG, rows)
    known.limit_to(Reach(references, known))
    return known


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("what", READS)
def test_each_read_needs_its_declaration_found_or_not(what: str, is_stored: bool) -> None:
    """A row that is not found may be stored all the same: it was not loaded."""
    ask, references = READS[what]
    rows = ROWS if is_stored else []
    with pytest.raises(NotReferred, match=r"`refer`.*References\.") as raised:
        ask(limited(References(), *rows))
    assert any(
        id_ in str(raised.value) for id_ in ("cus_1", ORGANIZATION, "ada", "sub_1", "in_1", "pm_1", "dp_1", "'t'")
    )
    assert bool(ask(limited(references, *rows))) is is_stored


@pytest.mark.parametrize("what", READS)
def test_outside_a_decision_every_row_can_be_read(what: str) -> None:
    known = limited(References(), *ROWS)
    known.limit_to(None)
    assert READS[what][0](known)


@pytest.mark.parametrize(
    "references",
    [
        References(subscriptions={("", "sub_1")}, timers_of={("k", "")}),
        References(payments={("", "ch_1")}, timers_of={("k", "")}),
        References(payment_methods={("", "pm_1")}, timers_of={("k", "")}),
        References(disputes={("", "dp_1")}, timers_of={("k", "s")}),
        References(timers={"t"}),
    ],
    ids=["subscription", "payment", "payment method", "dispute", "timer"],
)
def test_a_named_row_brings_its_customer_with_all_rows(references: References) -> None:
    known = limited(references, *ROWS)
    assert known.customer("", "cus_1")
    assert known.user("", "ada")
    assert known.subscription("", "sub_1")
    assert known.timer("t")
    with pytest.raises(NotReferred, match="cus_2"):
        known.customer("", "cus_2")


@pytest.mark.parametrize("named", [("k", "another"), ("another", ""), ("another", "s"), ("ka*", "")])
def test_timers_that_are_not_named_do_not_come_with_their_customer(named: tuple[str, str]) -> None:
    """At most they are loaded for another event of the batch."""
    known = limited(References(customers={("", "cus_1")}, timers_of={named}), *ROWS)
    reads = (
        lambda: known.timer("t"),
        lambda: known.timers_of("", "cus_1", "k", "s"),
        lambda: known.timers_of("", "cus_1", ""),
    )
    for read_timers in reads:
        with pytest.raises(NotReferred, match="timer"):
            read_timers()


def test_all_subjects_of_a_kind_are_read_only_if_all_are_named() -> None:
    known = limited(References(customers={("", "cus_1")}, timers_of={("k", "s")}), *ROWS)
    assert known.timers_of("", "cus_1", "k", "s") == [OPEN]
    with pytest.raises(NotReferred, match="timers_of"):
        known.timers_of("", "cus_1", "k")


def test_the_kind_of_timers_has_no_default() -> None:
    """A rule has to name it, and the type checker finds one that does not."""
    assert inspect.signature(Known.timers_of).parameters["kind"].default is inspect.Parameter.empty


def test_a_payment_is_found_by_any_of_its_ids() -> None:
    assert limited(References(payments={("", "ch_1")}), *ROWS).payment("", "in_1")
    with pytest.raises(NotReferred, match="in_1"):
        limited(References(customers={("", "cus_1")}), *ROWS).payment("", "in_1")


def test_a_link_brings_the_other_ids_of_its_payment_even_before_the_payment_has_a_row() -> None:
    links = [
        PaymentLink(account="", stripe_id=id_, payment_id=payment, kind=kind)
        for id_, payment, kind in (
            ("pi_7", "pay_7", LinkKind.INTENT),
            ("ch_7", "pay_7", LinkKind.CHARGE),
            ("ch_8", "pay_8", LinkKind.CHARGE),
        )
    ]
    known = limited(References(payments={("", "pi_7")}), *links)
    assert known.payment("", "ch_7") is None
    assert known.payment_link("", "ch_7") == links[1]
    for read_other in (known.payment, known.payment_link):
        with pytest.raises(NotReferred, match="ch_8"):
            read_other("", "ch_8")


def test_a_closed_timer_does_not_come_with_its_customer() -> None:
    closed = replace(OPEN, status=TimerStatus.DONE)
    known = limited(References(customers={("", "cus_1")}, timers_of={("k", "")}), closed)
    assert known.timers_of("", "cus_1", "k") == []
    with pytest.raises(NotReferred, match="timer 't'"):
        known.timer("t")


WRITES: list[Effect] = [
    *(Save(row) for row in ROWS if not isinstance(row, Timer)),
    Remove(Membership(organization_id=ORGANIZATION, user_id="ada")),
    CancelTimers(account="", customer_id="cus_1", kinds=("k",)),
    StartTimer(key="t", account="", customer_id="cus_1", kind="k", subject="s", due_at=DUE),
    FinishTimer("t"),
]


@pytest.mark.parametrize("effect", WRITES, ids=lambda effect: type(getattr(effect, "row", effect)).__name__)
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "at last"])
def test_what_a_rule_writes_needs_its_declaration_too(effect: Effect, is_late: bool) -> None:
    """The store would insert a row that exists, or miss the timer."""
    event, rule = read(MAKE.event("customer.created", MAKE.customer(), NOW))

    def ordering(_: Event[object], __: Known) -> list[Effect]:
        if is_late:
            raise NotKnownYet("invoice in_9", [effect])
        return [effect]

    known = Known(CONFIG, ROWS)
    with pytest.raises(NotReferred, match="`refer`"):
        decide(dataclasses.replace(rule, decide=ordering), event, known, References())
    assert known.customer("", "cus_1"), "the limit ends with the decision"
