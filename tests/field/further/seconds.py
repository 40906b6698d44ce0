"""Several updates of one object in one second (D2)."""

from __future__ import annotations

from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ADD_ON, ALONE, PRO, STARTER, Life, Maker, items
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "one second: past due, active, and past due again",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "past_due", previous={"status": "active"}),
                m.sub(DAY, "active", previous={"status": "past_due"}),
                m.sub(DAY, "past_due", previous={"status": "active"}),
            ],
            {"sub_1.status": "past_due"},
        ),
        Life(
            "one second: incomplete to active, past due, active",
            [
                m.sub(0, "incomplete", "created"),
                m.sub(90, "active", previous={"status": "incomplete"}),
                m.sub(90, "past_due", previous={"status": "active"}),
                m.sub(90, "active", previous={"status": "past_due"}, latest_invoice="in_2"),
            ],
            {"sub_1.status": "active"},
        ),
        Life(
            "one second: pause set and removed",
            [
                m.sub(0, "active", "created"),
                m.sub(
                    DAY,
                    "active",
                    previous={"pause_collection": None},
                    pause_collection={"behavior": "void", "resumes_at": None},
                ),
                m.sub(
                    DAY,
                    "active",
                    previous={"pause_collection": {"behavior": "void", "resumes_at": None}, "metadata": {"note": None}},
                    metadata={"note": "x"},
                ),
            ],
            {"sub_1.pause_collection": None},
        ),
        Life(
            "one second: set to end and taken back, after it was set to end and taken back on other days",
            [
                m.sub(0, "active", "created", cancel_at_period_end=True),
                m.sub(DAY, "active", previous={"cancel_at_period_end": True}),
                m.sub(2 * DAY, "active", previous={"cancel_at_period_end": False}, cancel_at_period_end=True),
                m.sub(2 * DAY, "active", previous={"cancel_at_period_end": True}),
            ],
            {"sub_1.cancel_at_period_end": False, "org_1.next_billing_at": 30 * DAY},
        ),
        Life(
            "one second: seats added and removed, in the second after another such one",
            [
                m.sub(0, "active", "created", quantity=2),
                m.sub(DAY, "active", previous={"quantity": 2}, quantity=5),
                m.sub(DAY, "active", previous={"quantity": 5}, quantity=2),
                m.sub(DAY, "active", previous={"quantity": 2}, quantity=3),
                m.sub(DAY + 1, "active", previous={"quantity": 3}, quantity=7),
                m.sub(DAY + 1, "active", previous={"quantity": 7}, quantity=3),
            ],
            {"sub_1.quantity": 3},
        ),
        Life(
            "one second: seats added and removed, in the second after more changes than are compared",
            [
                m.sub(0, "active", "created", quantity=1),
                *(m.sub(DAY, "active", previous={"quantity": n}, quantity=n + 1) for n in range(1, 11)),
                m.sub(DAY + 1, "active", previous={"quantity": 11}, quantity=9),
                m.sub(DAY + 1, "active", previous={"quantity": 9}, quantity=11),
            ],
            {"sub_1.quantity": 11},
            needs_key=True,
        ),
        Life(
            "one second: paused by a trial's end, resumed, and paused again by support",
            [
                m.sub(0, "trialing", "created"),
                m.sub(DAY, "paused", previous={"status": "trialing"}),
                m.sub(DAY + 9, "active", previous={"status": "paused"}),
                m.sub(DAY + 9, "paused", previous={"status": "active"}),
            ],
            {"sub_1.status": "paused", "org_1.has_access": False},
        ),
        Life(
            "one second: a larger plan and back, in the second in which the subscription was made",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(0, "active", previous=m.make.price_change(STARTER)),
                m.sub(0, "active", previous=m.make.price_change(PRO), price=STARTER),
            ],
            {"sub_1.plan": "starter", "org_1.plan": "starter"},
        ),
        Life(
            "one second: pause set and then another behavior",
            [
                m.sub(0, "active", "created"),
                m.sub(
                    DAY,
                    "active",
                    previous={"pause_collection": None},
                    pause_collection={"behavior": "void", "resumes_at": None},
                ),
                m.sub(
                    DAY,
                    "active",
                    previous={"pause_collection": {"behavior": "void"}},
                    pause_collection={"behavior": "keep_as_draft", "resumes_at": None},
                ),
            ],
            {"sub_1.pause_collection": "keep_as_draft"},
        ),
        Life(
            "one second: own card set and replaced",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous={"default_payment_method": None}, default_payment_method="pm_a"),
                m.sub(DAY, "active", previous={"default_payment_method": "pm_a"}, default_payment_method="pm_b"),
            ],
            {"sub_1.default_payment_method": "pm_b"},
        ),
        Life(
            "one second: pending update set, then applied with other fields",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    DAY,
                    "active",
                    previous={"pending_update": None},
                    price=STARTER,
                    pending_update={"expires_at": NOW + 2 * DAY},
                ),
                m.sub(DAY, "active", previous={"pending_update": {"expires_at": NOW + 2 * DAY}}, price=STARTER),
            ],
            {"sub_1.pending_update": False},
        ),
        Life(
            "one second: pending update applied with the price",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    DAY,
                    "active",
                    previous={"pending_update": None},
                    price=STARTER,
                    pending_update={"expires_at": NOW + 2 * DAY},
                ),
                m.sub(
                    DAY,
                    "active",
                    previous={"pending_update": {"expires_at": NOW + 2 * DAY}} | m.make.price_change(STARTER),
                ),
            ],
            {"sub_1.pending_update": False, "sub_1.plan": "pro"},
        ),
        Life(
            "one second: renewal of the period, then metadata",
            [
                m.sub(0, "active", "created"),
                m.renewed(
                    30 * DAY,
                    "active",
                    {"latest_invoice": "in_1", "current_period_end": NOW + 30 * DAY, "current_period_start": NOW},
                ),
                m.sub(
                    30 * DAY,
                    "active",
                    previous={"metadata": {"a": None}},
                    metadata={"a": "b"},
                    start=NOW + 30 * DAY,
                    created=NOW,
                    latest_invoice="in_2",
                ),
            ],
            {"sub_1.latest_invoice": "in_2", "sub_1.current_period_end": 60 * DAY},
        ),
        Life(
            "one second: price A to B to A",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous=m.make.price_change(PRO), price=STARTER),
                m.sub(DAY, "active", previous=m.make.price_change(STARTER), price=PRO, quantity=1),
            ],
            {"sub_1.plan": "pro"},
        ),
        Life(
            "customer: two addresses in one second",
            [
                m.customer(0, "created", email="a@example.com"),
                m.customer(DAY, "updated", {"email": "a@example.com"}, email="b@example.com"),
                m.customer(DAY, "updated", {"email": "b@example.com"}, email="c@example.com"),
            ],
            {"cus_1.email": "c@example.com"},
        ),
        Life(
            "customer: three names in one second",
            [
                m.sub(0, "active", "created"),
                m.customer(DAY, "updated", {"name": "A"}, name="B"),
                m.customer(DAY, "updated", {"name": "B"}, name="C"),
                m.customer(DAY, "updated", {"name": "C"}, name="D"),
            ],
            {"cus_1.name": "D", "org_1.name": "D"},
        ),
        Life(
            "customer: name and then address in one second",
            [
                m.customer(0, "created", name="A", email="a@example.com"),
                m.customer(DAY, "updated", {"name": "A"}, name="B", email="a@example.com"),
                m.customer(DAY, "updated", {"email": "a@example.com"}, name="B", email="b@example.com"),
            ],
            {"cus_1.name": "B", "cus_1.email": "b@example.com"},
        ),
        Life(
            "customer: name and then address in one second, name not first",
            [
                m.customer(0, "created", name="A", email="a@example.com"),
                m.customer(DAY, "updated", {"email": "a@example.com"}, name="A", email="b@example.com"),
                m.customer(DAY, "updated", {"name": "A"}, name="B", email="b@example.com"),
            ],
            {"cus_1.name": "B", "cus_1.email": "b@example.com"},
        ),
        Life(
            "customer: name changed and locale changed in one second",
            [
                m.customer(0, "created", name="A"),
                m.customer(DAY, "updated", {"preferred_locales": []}, name="A", preferred_locales=["de"]),
                m.customer(DAY, "updated", {"name": "A"}, name="B", preferred_locales=["de"]),
            ],
            {"cus_1.name": "B", "cus_1.locale": "de"},
        ),
        Life(
            "customer: postal address twice in one second",
            [
                m.customer(0, "created"),
                m.customer(DAY, "updated", {"address": None}, address={"city": "Ulm", "country": "DE"}),
                m.customer(
                    DAY,
                    "updated",
                    {"address": {"city": "Ulm", "country": "DE"}},
                    address={"city": "Bonn", "country": "DE"},
                ),
            ],
            {"cus_1.address": {"city": "Bonn", "country": "DE"}},
        ),
        Life(
            "customer: default card twice in one second",
            [
                m.customer(0, "created"),
                m.customer(
                    DAY,
                    "updated",
                    {"invoice_settings": {"default_payment_method": None}},
                    invoice_settings={"default_payment_method": "pm_a"},
                ),
                m.customer(
                    DAY,
                    "updated",
                    {"invoice_settings": {"default_payment_method": "pm_a"}},
                    invoice_settings={"default_payment_method": "pm_b"},
                ),
            ],
            {"cus_1.default_payment_method": "pm_b"},
        ),
        Life(
            "customer: user link twice in one second",
            [
                m.customer(0, "created"),
                m.sub(0, "active", "created"),
                m.customer(DAY, "updated", {"metadata": {"userId": None}}, metadata={"userId": "user_1"}),
                m.customer(DAY, "updated", {"metadata": {"userId": "user_1"}}, metadata={"userId": "user_2"}),
            ],
            {"cus_1.user_id": "user_2"},
        ),
        Life(
            "customer: address removed in the second in which it was set",
            [
                m.customer(0, "created", email=None),
                m.customer(DAY, "updated", {"email": None}, email="b@example.com"),
                m.customer(DAY, "updated", {"email": "b@example.com"}, email=None),
                m.customer(DAY, "updated", {"email": None}, email="c@example.com"),
            ],
            {"cus_1.email": "c@example.com"},
        ),
        Life(
            "customer: created and updated in one second",
            [
                m.customer(0, "created", email=None),
                m.customer(0, "updated", {"email": None}, email="b@example.com"),
            ],
            {"cus_1.email": "b@example.com"},
        ),
        Life(
            "subscription metadata names two users within a second",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous={"metadata": {"userId": None}}, metadata={"userId": "user_1"}),
                m.sub(DAY, "active", previous={"metadata": {"userId": "user_1"}}, metadata={"userId": "user_2"}),
            ],
            {"cus_1.user_id": "user_2"},
        ),
        Life(
            "dispute: two updates in one second",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, due=9 * DAY),
                m.dispute(
                    3 * DAY, "updated", 2 * DAY, due=12 * DAY, previous={"evidence_details": {"due_by": NOW + 9 * DAY}}
                ),
                m.dispute(
                    3 * DAY,
                    "updated",
                    2 * DAY,
                    due=12 * DAY,
                    status="under_review",
                    previous={"status": "needs_response"},
                ),
            ],
            {"dp_1.status": "under_review", "dp_1.due_by": 12 * DAY},
        ),
        Life(
            "quantity twice within a second",
            [
                m.sub(0, "active", "created", quantity=5),
                m.sub(
                    DAY, "active", previous={"quantity": 5, "items": {"data": [m.item(PRO, quantity=5)]}}, quantity=7
                ),
                m.sub(
                    DAY, "active", previous={"quantity": 7, "items": {"data": [m.item(PRO, quantity=7)]}}, quantity=2
                ),
            ],
            {"sub_1.quantity": 2},
            {"plan-changed": 0},
        ),
        Life(
            "add-on added, then removed, within one second",
            [
                m.sub(0, "active", "created", items=items(m.item(PRO))),
                m.sub(
                    DAY, "active", previous={"items": {"data": [m.item(PRO)]}}, items=items(m.item(PRO), m.item(ADD_ON))
                ),
                m.sub(
                    DAY,
                    "active",
                    previous={"items": {"data": [m.item(PRO), m.item(ADD_ON)]}},
                    items=items(m.item(PRO), m.item(Price("price_b", 1, "eur"))),
                ),
            ],
            {"sub_1.plan": "pro"},
        ),
        Life(
            "one second: ended, and its own card removed",
            [
                m.sub(0, "active", "created", default_payment_method="pm_a"),
                m.ended(DAY, default_payment_method="pm_a"),
                m.sub(DAY, "canceled", previous={"default_payment_method": "pm_a"}, ended_at=NOW + DAY),
            ],
            {"sub_1.status": "canceled", "sub_1.default_payment_method": None, "sub_1.ended_at": DAY},
            {"subscription-canceled": 1},
        ),
    ]
