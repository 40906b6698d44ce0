"""Events of one object and one second: their previous attributes decide, in any order and with any ids (D2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, Price, StripeEvents
from schemas.refetch import refetched_event
from streams.rules import same_second
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import DAY, MAKERS, NOW, at

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=["old", "new"])

TEAM = Price("price_team", 4900)


def arrivals(make: StripeEvents, *events: Json) -> Iterator[list[Json]]:
    """Each order of the events with each order of their ids; of the older API shape, two orders. The first is older."""
    first, *tied = events
    for ids in itertools.permutations([f"evt_{number}" for number in range(len(tied))]):
        named = [event | {"id": id_} for event, id_ in zip(tied, ids, strict=True)]
        every = list(itertools.permutations([first, *named]))
        for order in every if make.shape is ApiShape.NEW else (every[0], every[-1]):
            yield [*order, order[0]]


def check_calls(world: PatientWorld, updates: Sequence[Any]) -> None:
    """Stripe is only asked while the update in the middle of a chain is missing."""
    assert len(updates) > 2 or world.calls == {}


def customer(make: StripeEvents, kind: str, previous: Mapping[str, Any] | None = None, **more: Any) -> Json:
    at = NOW if kind == "created" else NOW + DAY
    return make.event(f"customer.{kind}", make.customer(created=NOW, **more), at, previous=previous)


def subscription(make: StripeEvents, kind: str, previous: Mapping[str, Any] | None = None, **more: Any) -> Json:
    at = NOW if kind == "created" else NOW + DAY
    made = make.subscription(**{"start": NOW, "status": "active", **more})
    return make.event(f"customer.subscription.{kind}", made, at, previous=previous)


def default(method: str | None) -> Json:
    return {"invoice_settings": {"default_payment_method": method}}


def address(**parts: str) -> Json:
    return {"city": "Ulm", "country": "DE", "line1": None, "line2": None, "postal_code": "89073", "state": None} | parts


NAMES: Sequence[tuple[str, list[tuple[Json, Json]], Any]] = [
    ("email", [({"email": "a@x.io"}, {"email": "b@x.io"}), ({"email": "b@x.io"}, {"email": "c@x.io"})], "c@x.io"),
    ("email", [({"email": None}, {"email": "b@x.io"}), ({"email": "b@x.io"}, {"email": "c@x.io"})], "c@x.io"),
    (
        "email",
        [({"name": "A"}, {"email": "a@x.io", "name": "B"}), ({"email": "a@x.io"}, {"name": "B"})],
        "jane@example.com",
    ),
    ("name", [({"name": "A"}, {"name": "B"}), ({"name": "B"}, {"name": "C"}), ({"name": "C"}, {"name": "D"})], "D"),
    (
        "locale",
        [
            ({"preferred_locales": []}, {"preferred_locales": ["de"]}),
            ({"name": "A"}, {"name": "B", "preferred_locales": ["de"]}),
        ],
        "de",
    ),
    (
        "address",
        [
            ({"address": None}, {"address": address()}),
            ({"address": {"city": "Ulm"}}, {"address": address(city="Bonn")}),
        ],
        {"city": "Bonn", "country": "DE", "postal_code": "89073"},
    ),
    ("default_payment_method", [(default(None), default("pm_a")), (default("pm_a"), default("pm_b"))], "pm_b"),
    ("last_default", [(default(None), default("pm_a")), (default("pm_a"), default("pm_b"))], "pm_b"),
    (
        "user_id",
        [
            ({"metadata": {"userId": None}}, {"metadata": {"userId": "u_1"}}),
            ({"metadata": {"userId": "u_1"}}, {"metadata": {"userId": "u_2"}}),
        ],
        "u_2",
    ),
]


@pytest.mark.parametrize(("column", "updates", "last"), NAMES)
def test_D2_the_latest_value_of_a_customer(
    make: StripeEvents, column: str, updates: list[tuple[Json, Json]], last: Any
) -> None:
    made = [customer(make, "updated", previous, **{"name": "A", **shown}) for previous, shown in updates]
    for order in arrivals(make, customer(make, "created", name="A"), *made):
        world = PatientWorld().apply(*order)
        assert getattr(world.customer(), column) == last, [event["id"] for event in order]
        check_calls(world, updates)


def test_D2_the_latest_user_of_a_subscription(make: StripeEvents) -> None:
    links = [(None, "u_1"), ("u_1", "u_2")]
    made = [
        subscription(make, "updated", {"metadata": {"userId": former}}, metadata={"userId": user})
        for former, user in links
    ]
    for order in arrivals(make, subscription(make, "created"), *made):
        world = PatientWorld().apply(*order)
        assert (world.customer().user_id, world.admins()) == ("u_2", ["u_2"])


UPDATES: Sequence[tuple[str, list[tuple[Json, Json]], Any]] = [
    (
        "status",
        [
            ({"status": "incomplete"}, {"status": "active"}),
            ({"status": "active"}, {"status": "past_due"}),
            ({"status": "past_due"}, {"status": "active", "latest_invoice": "in_2"}),
        ],
        "active",
    ),
    (
        "status",
        [({"status": "active"}, {"status": "past_due"}), ({"status": "past_due"}, {"status": "unpaid"})],
        "unpaid",
    ),
    (
        "default_payment_method",
        [
            ({"default_payment_method": None}, {"default_payment_method": "pm_a"}),
            ({"default_payment_method": "pm_a"}, {"default_payment_method": "pm_b"}),
        ],
        "pm_b",
    ),
    (
        "pause_collection",
        [
            ({"pause_collection": None}, {"pause_collection": {"behavior": "void", "resumes_at": None}}),
            (
                {"pause_collection": {"behavior": "void"}},
                {"pause_collection": {"behavior": "keep_as_draft", "resumes_at": None}},
            ),
        ],
        "keep_as_draft",
    ),
    (
        "cancel_at",
        [
            ({"cancel_at": None}, {"cancel_at": NOW + 9 * DAY}),
            ({"pending_update": None}, {"cancel_at": NOW + 9 * DAY, "pending_update": {"expires_at": NOW + 2 * DAY}}),
        ],
        NOW + 9 * DAY,
    ),
    (
        "pending_update",
        [
            ({"latest_invoice": "in_0"}, {"latest_invoice": "in_1"}),
            (
                {"pending_update": None, "latest_invoice": "in_1"},
                {"latest_invoice": "in_2", "pending_update": {"expires_at": NOW + 2 * DAY}},
            ),
        ],
        True,
    ),
]


@pytest.mark.parametrize(("column", "updates", "last"), UPDATES)
def test_D2_the_latest_value_of_a_subscription(
    make: StripeEvents, column: str, updates: list[tuple[Json, Json]], last: Any
) -> None:
    made = [subscription(make, "updated", previous, **shown) for previous, shown in updates]
    for order in arrivals(make, subscription(make, "created", status="incomplete"), *made):
        world = PatientWorld().apply(*order)
        value = getattr(world.subscription(), column)
        assert (int(value.timestamp()) if column == "cancel_at" else value) == last, [event["id"] for event in order]
        check_calls(world, updates)


def test_D2_a_companion_of_an_update_is_ordered_with_it(make: StripeEvents) -> None:
    """A subscription is resumed and given a trial in one second. `resumed` belongs to the first of the two updates."""
    trial = {"status": "trialing", "trial_end": NOW + 9 * DAY}
    made = [
        subscription(make, "updated", {"status": "paused"}),
        subscription(make, "resumed"),
        subscription(make, "updated", {"status": "active", "trial_end": None}, **trial),
    ]
    for order in arrivals(make, subscription(make, "created", status="paused"), *made):
        assert PatientWorld().apply(*order).subscription().status == "trialing", [event["id"] for event in order]


def test_D2_a_quantity_that_only_the_subscription_names(make: StripeEvents) -> None:
    made = [
        subscription(make, "updated", {"quantity": former}, quantity=quantity) for former, quantity in ((5, 7), (7, 2))
    ]
    for order in arrivals(make, subscription(make, "created", quantity=5), *made):
        assert PatientWorld().apply(*order).subscription().quantity == 2


def test_D2_the_latest_price_of_three(make: StripeEvents) -> None:
    pro, starter = Price("price_pro", 2900), Price("price_starter", 900)
    changes = [(pro, starter), (starter, TEAM)]
    made = [subscription(make, "updated", make.price_change(former), price=price) for former, price in changes]
    for order in arrivals(make, subscription(make, "created", price=pro), *made):
        assert PatientWorld().apply(*order).subscription().plan == "team"


def test_D2_a_change_and_its_reversal_are_settled_by_stripe(make: StripeEvents) -> None:
    """Each of the two replaced what the other shows, so the events do not say which came first."""
    pause = {"behavior": "void", "resumes_at": None}
    made = [
        subscription(make, "updated", {"pause_collection": None}, pause_collection=pause),
        subscription(make, "updated", {"pause_collection": pause}, pause_collection=None),
    ]
    for order in arrivals(make, subscription(make, "created"), *made):
        calls = PatientWorld().apply(*order).calls.values()
        assert [call.path for call in calls] == ["/v1/subscriptions/sub_1"]


def test_D2_the_latest_state_of_a_dispute(make: StripeEvents) -> None:
    due, moved = NOW + 9 * DAY, NOW + 12 * DAY
    changes: list[tuple[Json, str]] = [
        ({"evidence_details": {"due_by": due}}, "needs_response"),
        ({"status": "needs_response"}, "under_review"),
    ]
    opened = make.event("charge.dispute.created", pay.dispute(make, created=NOW, due_by=due), NOW)
    updates = []
    for previous, status in changes:
        made = pay.dispute(make, created=NOW, due_by=moved, status=status)
        updates.append(make.event("charge.dispute.updated", made, NOW + DAY, previous=previous))
    for order in arrivals(make, opened, *updates):
        world = PatientWorld().apply(*order)
        row = world.dispute()
        assert (row.status, int(row.due_by.timestamp()) if row.due_by else None) == ("under_review", moved)
        assert world.calls == {}


def test_D2_the_latest_expiry_of_a_card(make: StripeEvents) -> None:
    attached = make.event("payment_method.attached", pay.payment_method(make, expiry=(2027, 1)), NOW)
    changes = [((2027, 1), (2028, 1)), ((2028, 1), (2030, 6))]
    updates = [
        make.event(
            "payment_method.updated",
            pay.payment_method(make, expiry=after),
            NOW + DAY,
            previous={"card": {"exp_year": former[0], **({"exp_month": former[1]} if former[1] != after[1] else {})}},
        )
        for former, after in changes
    ]
    for order in arrivals(make, attached, *updates):
        world = PatientWorld().apply(*order)
        row = world.payment_method()
        assert (row.exp_year, row.exp_month) == (2030, 6)
        assert [call.method for call in world.calls.values()] == ["POST"]


def test_D2_what_an_invoice_owes_after_two_credit_notes(make: StripeEvents) -> None:
    changes = ((2900, 2000), (2000, 1500))
    updates = [
        make.event(
            "invoice.updated",
            make.invoice(amount=amount, created=NOW),
            NOW + DAY,
            previous={"amount_due": former, "amount_remaining": former},
        )
        for former, amount in changes
    ]
    failed = make.event("invoice.payment_failed", make.invoice(created=NOW), NOW)
    for order in arrivals(make, failed, *updates):
        assert PatientWorld().apply(*order).payment().amount_remaining == 1500


def test_D2_what_an_invoice_owes_after_a_failure_and_a_credit_note(make: StripeEvents) -> None:
    """Within one second. A failure after a part was paid shows what is left, and so does the update before it."""
    earlier = make.event("invoice.payment_failed", make.invoice(created=NOW), NOW)
    update = make.event(
        "invoice.updated",
        make.invoice(created=NOW, amount=2000),
        NOW + DAY,
        previous={"amount_due": 2900, "amount_remaining": 2900},
    )
    for amount in (2000, 2900):
        failure = make.event("invoice.payment_failed", make.invoice(created=NOW, amount=amount), NOW + DAY)
        for order in arrivals(make, earlier, failure, update):
            assert PatientWorld().apply(*order).payment().amount_remaining == 2000


def test_D2_the_rank_orders_what_an_invoice_owes_until_stripe_has_answered(make: StripeEvents) -> None:
    """Nothing says whether the credit note came before the failure of its second."""
    earlier = make.event("invoice.payment_failed", make.invoice(created=NOW), NOW)
    update = make.event(
        "invoice.updated",
        make.invoice(created=NOW, amount=2000),
        NOW + DAY,
        previous={"amount_due": 2500, "amount_remaining": 2500},
    )
    failure = make.event("invoice.payment_failed", make.invoice(created=NOW, amount=1500), NOW + DAY)
    for order in arrivals(make, earlier, failure, update):
        world = PatientWorld().apply(*order)
        assert world.payment().amount_remaining == 1500
        (call,) = world.calls.values()
        assert call.path == "/v1/invoices/in_1"
        present = make.invoice(created=NOW, amount=2000)
        answer = refetched_event(
            call.key, present, at=at(NOW + 2 * DAY), account="", livemode=False,
            api_version=earlier["api_version"], request_id=None,
        )  # fmt: skip
        assert world.apply(answer).payment().amount_remaining == 2000


def test_D2_nothing_is_asked_about_an_invoice_that_is_paid(make: StripeEvents) -> None:
    paid = make.event("invoice.paid", make.invoice(created=NOW, status="paid"), NOW + 2 * DAY)
    failures = [
        make.event("invoice.payment_failed", make.invoice(created=NOW, amount=amount), NOW + DAY)
        for amount in (1500, 2000)
    ]
    for order in itertools.permutations(failures):
        assert PatientWorld().apply(paid, *order).calls == {}


def chain(make: StripeEvents, kind: str, length: int) -> list[Json]:
    """An older event, and updates of one second, each of which begins with what the one before it shows."""
    updates: list[Json] = []
    for number in range(length):
        match kind:
            case "subscription":
                former, method = (f"pm_{at}" for at in (number, number + 1))
                previous: Json = {"default_payment_method": former}
                updates.append(subscription(make, "updated", previous, default_payment_method=method))
            case "customer":
                updates.append(customer(make, "updated", {"name": f"n{number}"}, name=f"n{number + 1}"))
            case "dispute":
                due = NOW + (number + 9) * DAY
                made = pay.dispute(make, created=NOW, due_by=due + DAY)
                previous = {"evidence_details": {"due_by": due}}
                updates.append(make.event("charge.dispute.updated", made, NOW + DAY, previous=previous))
            case "payment method":
                made = pay.payment_method(make, expiry=(2031 + number, 1))
                previous = {"card": {"exp_year": 2030 + number}}
                updates.append(make.event("payment_method.updated", made, NOW + DAY, previous=previous))
            case _:
                amount = 2900 - number
                made = make.invoice(created=NOW, amount=amount - 1)
                previous = {"amount_due": amount, "amount_remaining": amount}
                updates.append(make.event("invoice.updated", made, NOW + DAY, previous=previous))
    first = {
        "subscription": lambda: subscription(make, "created"),
        "customer": lambda: customer(make, "created", name="n0"),
        "dispute": lambda: make.event("charge.dispute.created", pay.dispute(make, created=NOW, due_by=NOW), NOW),
        "payment method": lambda: make.event("payment_method.attached", pay.payment_method(make), NOW),
        "invoice": lambda: make.event("invoice.payment_failed", make.invoice(created=NOW), NOW),
    }
    return [first[kind](), *updates]


@pytest.mark.parametrize("kind", ["subscription", "customer", "dispute", "payment method", "invoice"])
def test_D2_more_updates_of_a_second_than_are_compared_are_settled_by_stripe(make: StripeEvents, kind: str) -> None:
    """What is left of them can be a chain without a gap, but its end is not the latest update."""
    for length in (same_second.MOST, same_second.MOST + 1):
        first, *updates = chain(make, kind, length)
        named = [event | {"id": f"evt_{length - number}"} for number, event in enumerate(updates)]
        reversed_ = named[::-1]
        for order in (named, reversed_, [*named[::2], *named[1::2]]):
            asked = [call for call in PatientWorld().apply(first, *order).calls.values() if call.method == "GET"]
            has_gaps = order is not named and order is not reversed_
            assert len(asked) == int(length > same_second.MOST or has_gaps)


def test_D2_what_was_left_out_is_remembered_in_any_order(make: StripeEvents) -> None:  # once for both shapes
    events = [snapshot(number, {"name": number}, {"name": number - 1}) for number in range(1, 10)]
    for order in (events, events[::-1], [*events[4:], *events[:4]]):
        tied: list[Any] = [order[0]]
        for event in order[1:]:
            tied = same_second.tied_with({"tied": tied}, tied[0], event)
        assert [one["version"] for one in tied] == [one["version"] for one in events[1:]]
        assert same_second.is_undecided(tied)
        assert not same_second.is_undecided(events[1:])


def snapshot(number: int, previous: Json, facts: Json) -> Json:
    return {"version": f"0:1:50:evt_{number}", "previous": previous, "facts": facts}


def test_D2_a_missing_update_leaves_its_neighbours_in_their_order(make: StripeEvents) -> None:  # once for both shapes
    """a → b, (b → c missing), c → d, d → e: nothing replaced e, and nothing replaced b."""
    changes = ((7, "a", "b"), (5, "c", "d"), (3, "d", "e"))
    first, third, fourth = (snapshot(number, {"name": former}, {"name": name}) for number, former, name in changes)
    assert same_second.is_undecided([first, third, fourth])
    assert not same_second.is_undecided([third, fourth])
    assert same_second.latest_of([third, fourth]) == fourth


def test_D2_updates_that_show_the_same_are_no_tie(make: StripeEvents) -> None:  # once for both shapes
    tied = [snapshot(1, {}, {"name": "a"}), snapshot(2, {"email": None}, {"name": "a"})]
    assert not same_second.is_undecided(tied)
