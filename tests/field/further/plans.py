"""Plans, items, prices and currencies (B3, B7, C16)."""

from __future__ import annotations

from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ADD_ON, FREE, HOUR, PRO, STARTER, YEARLY, Life, Maker, items
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "pending update with a declined invoice, applied after all",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    3 * DAY,
                    "active",
                    previous={"pending_update": None, "latest_invoice": "in_1"},
                    price=STARTER,
                    latest_invoice="in_2",
                    pending_update={"expires_at": NOW + 4 * DAY},
                ),
                m.failed(3 * DAY, id_="in_2", created=3 * DAY, reason="subscription_update", retry=None),
                m.paid(3 * DAY + HOUR, id_="in_2", created=3 * DAY, reason="subscription_update"),
                m.sub(
                    3 * DAY + HOUR,
                    "active",
                    previous={"pending_update": {"expires_at": NOW + 4 * DAY}} | m.make.price_change(STARTER),
                    latest_invoice="in_2",
                ),
            ],
            {
                "sub_1.status": "active",
                "sub_1.plan": "pro",
                "org_1.plan": "pro",
                "sub_1.pending_update": False,
                "org_1.billing_status": "paid",
            },
            {"plan-changed": 1},
        ),
        Life(
            "pending update expires: plan stays",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.paid(0, reason="subscription_create", price=STARTER),
                m.sub(
                    3 * DAY,
                    "active",
                    previous={"pending_update": None, "latest_invoice": "in_1"},
                    price=STARTER,
                    latest_invoice="in_2",
                    pending_update={"expires_at": NOW + 4 * DAY},
                ),
                m.failed(3 * DAY, id_="in_2", created=3 * DAY, reason="subscription_update", retry=None),
                m.inv(4 * DAY, "voided", id_="in_2", created=3 * DAY, status="void", reason="subscription_update"),
                m.sub(
                    4 * DAY,
                    "active",
                    previous={"pending_update": {"expires_at": NOW + 4 * DAY}},
                    price=STARTER,
                    latest_invoice="in_2",
                ),
                m.sub(4 * DAY, "active", "pending_update_expired", price=STARTER, latest_invoice="in_2"),
            ],
            {
                "sub_1.status": "active",
                "sub_1.plan": "starter",
                "org_1.status": "active",
                "in_2.status": "closed",
                "org_1.billing_status": "paid",
            },
            {"plan-changed": 0, "payment-final": 0},
        ),
        Life(
            "upgrade with allow_incomplete is declined: past due by Stripe's word, then paid",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    3 * DAY,
                    "past_due",
                    previous={"status": "active", "latest_invoice": "in_1"} | m.make.price_change(STARTER),
                    latest_invoice="in_2",
                ),
                m.failed(3 * DAY, id_="in_2", created=3 * DAY, reason="subscription_update"),
                m.paid(5 * DAY, id_="in_2", created=3 * DAY, reason="subscription_update"),
                m.sub(5 * DAY, "active", previous={"status": "past_due"}, latest_invoice="in_2"),
            ],
            {"sub_1.status": "active", "sub_1.plan": "pro"},
            {"plan-changed": 1, "payment-receipt": 1},
        ),
        Life(
            "price A to B to A on three days",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous=m.make.price_change(PRO), price=STARTER),
                m.sub(2 * DAY, "active", previous=m.make.price_change(STARTER), price=PRO),
            ],
            {"sub_1.plan": "pro", "org_1.plan": "pro"},
            {"plan-changed": 2},
        ),
        Life(
            "price A to B to C to A, without previous attributes",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", price=STARTER),
                m.sub(2 * DAY, "active", price=FREE),
                m.sub(3 * DAY, "active", price=PRO),
            ],
            {"sub_1.plan": "pro"},
            {"plan-changed": 3},
        ),
        Life(
            "two plan items and an add-on, the add-on first, five seats",
            [
                m.sub(
                    0,
                    "active",
                    "created",
                    items=items(m.item(ADD_ON), m.item(STARTER, quantity=2), m.item(PRO, quantity=5)),
                ),
            ],
            {"sub_1.plan": "pro", "sub_1.quantity": 5, "sub_1.unit_amount": 2900, "org_1.plan": "pro"},
        ),
        Life(
            "no item belongs to a plan",
            [
                m.sub(0, "active", "created", price=ADD_ON),
            ],
            {"sub_1.plan": None, "sub_1.price_id": "price_add_on", "org_1.plan": None, "org_1.has_access": True},
        ),
        Life(
            "plan item is metered itself",
            [
                m.sub(0, "active", "created", items=items(m.item(ADD_ON), m.item(PRO, "metered"))),
            ],
            {"sub_1.plan": "pro", "sub_1.quantity": None},
        ),
        Life(
            "the plan item is taken off and an add-on stays",
            [
                m.sub(0, "active", "created", items=items(m.item(PRO), m.item(ADD_ON))),
                m.sub(
                    DAY,
                    "active",
                    previous={"items": {"data": [m.item(PRO), m.item(ADD_ON)]}},
                    items=items(m.item(ADD_ON)),
                ),
            ],
            {"sub_1.plan": None, "org_1.plan": None},
        ),
        Life(
            "an update without items keeps the plan and then the status changes",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "past_due", previous={"status": "active"}, items=items(), plan=None),
            ],
            {"sub_1.plan": "pro", "sub_1.status": "past_due", "sub_1.price_id": "price_pro_monthly"},
        ),
        Life(
            "more items than the event shows: the plan is not lost",
            [
                m.sub(0, "active", "created", items=items(m.item(PRO), m.item(ADD_ON))),
                m.sub(
                    DAY,
                    "active",
                    previous={"metadata": {}},
                    items=items(*[m.item(Price(f"price_add_{n}", 100, "eur")) for n in range(10)], has_more=True),
                ),
            ],
            {"sub_1.plan": "pro", "org_1.plan": "pro"},
        ),
        Life(
            "an item whose price is deleted",
            [
                m.sub(
                    0,
                    "active",
                    "created",
                    items=items(
                        m.item(PRO),
                        {
                            "id": "si_x",
                            "object": "subscription_item",
                            "price": {"id": "price_gone", "deleted": True},
                            "quantity": 1,
                        },
                    ),
                ),
            ],
            {"sub_1.plan": "pro"},
        ),
        Life(
            "the price is only an id",
            [
                m.sub(
                    0,
                    "active",
                    "created",
                    items=items(
                        {"id": "si_x", "object": "subscription_item", "price": "price_pro_monthly", "quantity": 3}
                    ),
                ),
            ],
            {"sub_1.plan": "pro", "sub_1.quantity": 3, "sub_1.unit_amount": None},
        ),
        Life(
            "periods that differ by item: the earliest renewal",
            [
                m.sub(0, "active", "created", items=items(m.item(YEARLY), m.item(ADD_ON))),
            ],
            {"sub_1.plan": "pro", "org_1.next_billing_at": 30 * DAY},
        ),
        Life(
            "price of another currency than the subscription's: amount unknown",
            [
                m.sub(0, "active", "created", currency="gbp"),
            ],
            {"sub_1.currency": "gbp", "sub_1.unit_amount": None, "sub_1.plan": "pro"},
        ),
        Life(
            "currency options expanded",
            [
                m.sub(
                    0,
                    "active",
                    "created",
                    currency="jpy",
                    items=items(
                        (lambda i: (i["price"].update(currency_options={"jpy": {"unit_amount": 4200}}), i)[1])(
                            m.item(PRO)
                        )
                    ),
                ),
            ],
            {"sub_1.currency": "jpy", "sub_1.unit_amount": 4200, "sub_1.plan": "pro"},
        ),
        Life(
            "checkout before everything: user, plan by metadata, then price says else",
            [
                m.session(0, "completed", "paid", mode="subscription", user="user_1", plan="pro"),
                m.sub(0, "active", "created", price=STARTER),
                m.sub(5 * DAY, "active", previous=m.make.price_change(STARTER), price=FREE),
            ],
            {"sub_1.plan": "free", "cus_1.user_id": "user_1"},
            {"plan-changed": 1, "subscription-welcome": 1},
        ),
        Life(
            "interval changes month to year: one mail",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous=m.make.price_change(PRO), price=YEARLY, end=NOW + 366 * DAY),
            ],
            {"sub_1.plan": "pro", "sub_1.interval": "year", "org_1.next_billing_at": 366 * DAY},
            {"plan-changed": 1},
        ),
        Life(
            "quantity changes: no mail",
            [
                m.sub(0, "active", "created", quantity=5),
                m.sub(
                    DAY,
                    "active",
                    previous={"quantity": 5, "items": {"data": [{"id": "si_1", "quantity": 5}]}},
                    quantity=7,
                ),
                m.sub(2 * DAY, "active", previous={"quantity": 7}, quantity=2),
            ],
            {"sub_1.quantity": 2},
            {"plan-changed": 0},
        ),
        Life(
            "checkout's plan, created lost, the update names the price before",
            [
                m.session(0, "completed", "paid", mode="subscription", user="user_1", plan="pro"),
                m.sub(5 * DAY, "active", previous=m.make.price_change(STARTER), price=FREE),
            ],
            {"sub_1.plan": "free"},
        ),
        Life(
            "two active of which one has an unknown price",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(1, "active", "created", id_="sub_2", latest_invoice="in_2", price=ADD_ON),
            ],
            {"org_1.plan": "starter", "sub_2.plan": None},
        ),
        Life(
            "one paused collection and one active, the larger is paused",
            [
                m.sub(0, "active", "created", pause_collection={"behavior": "void", "resumes_at": NOW + 50 * DAY}),
                m.sub(1, "active", "created", id_="sub_2", latest_invoice="in_2", price=STARTER),
            ],
            {
                "org_1.plan": "pro",
                "org_1.access_reason": "collection_paused",
                "org_1.access_changes_at": 50 * DAY,
                "org_1.next_billing_at": 30 * DAY + 0,
            },
        ),
    ]
