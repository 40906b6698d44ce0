"""Objects of Stripe that an audit cannot read: said, and nothing of them is guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from local.stripe import payments as pay
from local.stripe.builder import StripeEvents
from recovery.audit.compare import MISSING, AuditWindow, compared
from recovery.audit.differences import AuditDifference, Cause, Kind, repair_of
from schemas.settings import Config, Plan
from schemas.stripe.subscription import StripeSubscription
from schemas.version import version

MAKE = StripeEvents()
WINDOW = AuditWindow(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
CREATED = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
CONFIG = Config(plans={"pro": Plan(name="Pro", prices=("price_pro",))})


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Kind.SUBSCRIPTION, MAKE.subscription(status="on_holiday")),
        (Kind.SUBSCRIPTION, MAKE.subscription() | {"current_period_end": "soon", "items": None, "plan": "price_pro"}),
        (Kind.SUBSCRIPTION, MAKE.subscription() | {"created": 10**30}),
        (Kind.SUBSCRIPTION, MAKE.subscription() | {"items": {"data": "none"}, "cancel_at": -1.5}),
        (Kind.INVOICE, MAKE.invoice(status="paid", created=CREATED) | {"amount_paid": "12.00"}),
        (Kind.INVOICE, MAKE.invoice(status="paid", created=CREATED) | {"currency": "moon"}),
        (Kind.INVOICE, MAKE.invoice(status="paid", created=CREATED) | {"amount_due": None}),
        (Kind.INVOICE, MAKE.invoice(status="paid", created=CREATED) | {"status_transitions": {"paid_at": 10**30}}),
        (Kind.CHARGE, pay.charge(MAKE) | {"amount": True}),
        (Kind.REFUND, pay.refund(MAKE) | {"amount": None}),
        (Kind.REFUND, {"id": "re_1"}),
    ],
)
def test_D11_an_object_that_cannot_be_read_is_named(kind: Kind, item: dict[str, Any]) -> None:
    found = compared(kind, item, None, WINDOW, CONFIG)
    assert (found.cause, found.money) == (Cause.UNREADABLE, None)
    assert found.fields["object"][0]


@pytest.mark.parametrize("created", [10**30, -5, "now", None, True, 1.5])
def test_D11_a_refund_without_a_usable_time_counts_on_no_day(created: object) -> None:
    item = pay.refund(MAKE) | {"created": created}
    assert compared(Kind.REFUND, item, None, WINDOW, CONFIG).money is None


@pytest.mark.parametrize("key", ["tax", "total", "total_taxes", "total_tax_amounts"])
@pytest.mark.parametrize("odd", [None, "odd", -1, 10**30, [], [None], {}, {"data": None}])
def test_D11_odd_values_of_what_is_not_compared_hide_nothing(key: str, odd: object) -> None:
    """An invoice is compared although its tax cannot be read."""
    item = MAKE.invoice(status="paid", created=CREATED) | {key: odd}
    found = compared(Kind.INVOICE, item, None, WINDOW, CONFIG)
    assert (found.fields, found.cause) == (MISSING, None)
    assert found.money is not None
    assert found.money.amount == 2900


@pytest.mark.parametrize(
    ("stored", "chosen", "first", "cause"),
    [
        pytest.param("pro", None, "price_pro", None, id="that of the price"),
        pytest.param("team", None, "price_pro", Cause.OTHER_PLAN, id="another one"),
        pytest.param(None, None, "price_pro", Cause.UNKNOWN_PRICE, id="none, although the price has one by now"),
        pytest.param("team", "team", "price_pro", None, id="the one that was chosen at the checkout"),
        pytest.param("gone", None, "price_pro", Cause.OTHER_PLAN, id="one that does not exist"),
        pytest.param("pro", "team", "price_old", None, id="chosen at the checkout, and changed since"),
        pytest.param("pro", "gone", "price_pro", None, id="chosen at the checkout, and unknown"),
    ],
)
def test_D11_the_plan_is_the_one_that_the_configuration_has_now(
    stored: str | None, chosen: str | None, first: str, cause: Cause | None
) -> None:
    item = MAKE.subscription(start=CREATED)
    read = StripeSubscription.model_validate(item)
    row = {
        **{name: getattr(read, name) for name in ("currency", "current_period_start", "current_period_end")},
        **dict.fromkeys(("trial_end", "cancel_at", "canceled_at", "ended_at", "pause_collection")),
        "customer_id": "cus_1",
        "status": "active",
        "cancel_at_period_end": False,
        "items": [{"price": "price_pro", "quantity": 1}],
        "plan": stored,
        "checkout_plan": chosen,
        "first_price_id": first,
    }
    config = Config(plans={"pro": Plan(name="Pro", prices=("price_pro",)), "team": Plan(name="Team", prices=())})
    found = compared(Kind.SUBSCRIPTION, item, row, WINDOW, config)
    assert found.cause == cause
    assert set(found.fields) == ({"plan"} if cause else set())
    gone = compared(Kind.SUBSCRIPTION, item, {**row, "plan": "pro", "checkout_plan": None}, WINDOW, Config())
    assert gone.cause is Cause.UNKNOWN_PRICE, "the plan of the price was taken out of the configuration"
    assert gone.fields == {"plan": ["no plan has price_pro", "pro"]}


@pytest.mark.parametrize(
    ("stored", "by_stripe", "expected"),
    [
        pytest.param({"ch_1": (60, 5)}, 60, {}, id="lost before the sum"),
        pytest.param({"ch_1": (40, 5)}, 0, {"amount": [0, 40], "refunded_amount": [0, 40]}, id="lost, and counted"),
        pytest.param({"ch_1": (100, 5), "re_1": 7}, 60, {}, id="lost after the sum"),
        pytest.param({"ch_1": (60, 5), "re_1": 7}, 60, {"refunded_amount": [60, 20]}, id="deducted twice"),
        pytest.param({}, 60, {}, id="no refund is known"),
        pytest.param({"ch_2": (40, 5)}, 0, {}, id="another charge of the payment"),
    ],
)
def test_D11_a_lost_refund_is_judged_by_the_sum_of_its_charge(
    stored: dict[str, Any], by_stripe: int, expected: dict[str, Any]
) -> None:
    """The refund of 40 failed at Stripe."""
    lost = {"amount": 40, "lost": True, "charge": "ch_1"}
    refunds = {
        id_: {**lost, "version": version(facts, 60, "evt_1", terminal=True)}
        if isinstance(facts, int)
        else {"refunded": facts[0], "created": facts[1]}
        for id_, facts in stored.items()
    }
    charge = pay.charge(MAKE, refunded=by_stripe, amount=100)
    item = pay.refund(MAKE, amount=40, status="failed", created=CREATED) | {"charge": charge}
    assert compared(Kind.REFUND, item, {"refunds": refunds, "currency": "eur"}, WINDOW, CONFIG).fields == expected


@pytest.mark.parametrize(
    ("kind", "id_", "repair"),
    [
        (Kind.SUBSCRIPTION, "sub_1", "billing reconcile --object sub_1"),
        (Kind.REFUND, "re_1", "billing reconcile --object re_1"),
        (Kind.CHARGE, "ch_1", "billing reconcile --object ch_1"),
    ],
)
def test_D11_the_command_that_reads_the_object_again_is_named(kind: Kind, id_: str, repair: str) -> None:
    """Also for a purchase: a charge that is read again says what was paid (streams/rules/payments/charges.py)."""
    assert repair_of(AuditDifference(kind, id_, {"currency": ["eur", "usd"]}), "", WINDOW.start) == repair
