"""Stream `customers`: behaviours.md C11 and B6's deletion."""

from __future__ import annotations

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.state import User, derived_id
from schemas.statuses import OrganizationStatus
from tests.kits.rulekit import DAY, MAKERS, NOW, RulesWorld, at

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def created(make: StripeEvents) -> Json:
    return make.event("customer.created", make.customer(), NOW)


def updated(make: StripeEvents, when: int, previous: Json, **more: object) -> Json:
    customer = make.customer(**more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.updated", customer, when, previous=previous)


def subscribed(make: StripeEvents) -> Json:
    return make.event("customer.subscription.created", make.subscription(start=NOW), NOW + 1)


def test_C11_a_customer_alone_has_no_organization_yet(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make))
    assert (world.customer().email, world.customer().name) == ("jane@example.com", "Jane Doe")
    assert world.known.organization("", "cus_1") is None


def test_C11_a_new_name_is_copied_to_the_organization(make: StripeEvents) -> None:
    world = RulesWorld().apply(
        created(make), subscribed(make), updated(make, NOW + 9, {"name": "Jane Doe"}, name="Acme")
    )
    assert world.organization().name == "Acme"


def test_C11_a_new_address_is_copied_to_organization_and_user(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make), subscribed(make))
    world.apply(updated(make, NOW + 9, {"email": "jane@example.com"}, email="new@example.com"))
    user = world.known.user("", User.id_of("", "cus_1"))
    assert user is not None
    assert (world.organization().billing_email, user.email) == ("new@example.com", "new@example.com")


def test_C11_a_new_billing_address_is_kept(make: StripeEvents) -> None:
    """An address alone; an older one changes nothing."""
    there, before = {"line1": "1 New Road", "country": "GB"}, {"line1": "9 Old Road", "country": "GB"}
    world = RulesWorld().apply(created(make), subscribed(make))
    world.apply(updated(make, NOW + 9, {"address": None}, address=there))
    assert world.customer().address == there
    world.apply(updated(make, NOW + 5, {"address": None}, address=before))
    assert world.customer().address == there
    assert world.customer().name == "Jane Doe"


def test_C11_an_update_of_something_else_changes_neither(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make), subscribed(make))
    before = world.state()
    world.apply(updated(make, NOW + 9, {"metadata": {}}, name="Not listed as changed", email="x@example.com"))
    assert world.state() == before
    assert world.stale == []


def test_C11_an_update_without_previous_attributes_is_a_whole_object(make: StripeEvents) -> None:
    """A fetch, a repair, or a sender that names no differences. An older one changes nothing."""
    whole = updated(make, NOW + 9, {}, name="Acme", email="acme@example.com")
    before = updated(make, NOW + 5, {}, name="Old", email="old@example.com")
    for order in ([whole, before], [before, whole]):
        world = RulesWorld().apply(created(make), subscribed(make), *order)
        assert (world.organization().name, world.organization().billing_email) == ("Acme", "acme@example.com")


def test_C11_the_newest_name_wins_in_every_order(make: StripeEvents) -> None:
    events = [
        created(make),
        updated(make, NOW + 5, {"name": "Jane Doe"}, name="Acme"),
        updated(make, NOW + 9, {"name": "Acme"}, name="Acme Ltd"),
    ]
    world = RulesWorld().apply(*events[::-1])
    assert world.customer().name == "Acme Ltd"
    assert len(world.stale) == 2


def test_C11_customer_data_of_an_invoice_is_only_a_weak_source(make: StripeEvents) -> None:
    """It fills in a missing address and never overwrites values from the customer's own events."""
    paid = make.event("invoice.paid", make.invoice(status="paid", email="old@example.com"), NOW + 9)
    assert RulesWorld().apply(paid).customer().email == "old@example.com"
    for order in ([paid, created(make)], [created(make), paid]):
        world = RulesWorld().apply(*order)
        assert (world.customer().email, world.stale) == ("jane@example.com", [])


@pytest.mark.parametrize("whole", [True, False])
def test_B6_a_deleted_customer_waits_for_erasure(make: StripeEvents, whole: bool) -> None:
    """The object may be the whole customer or only its id. No data is lost before the timer fires."""
    gone = make.customer() if whole else {"id": "cus_1", "object": "customer", "deleted": True}
    world = RulesWorld().apply(created(make), subscribed(make), make.event("customer.deleted", gone, NOW + DAY))
    assert (world.customer().deleted_at, world.customer().name) == (at(NOW + DAY), "Jane Doe")
    assert (world.organization().status, world.organization().plan) == (OrganizationStatus.CANCELLED, "free")
    (timer,) = world.pending().values()
    assert (timer.kind, timer.subject, timer.due_at) == ("erase", "cus_1", at(NOW + 31 * DAY))
    closed = world.data("subscription-canceled")  # G8: one mail with the link to the archive
    assert (closed["reason"], closed["export_id"]) == ("customer_deleted", derived_id("exp", "", "cus_1"))
    assert closed["erase_at"] == timer.due_at.isoformat()


def test_B6_a_deletion_wins_in_every_order(make: StripeEvents) -> None:
    gone = make.event("customer.deleted", {"id": "cus_1", "object": "customer", "deleted": True}, NOW + DAY)
    events = [created(make), subscribed(make), gone]
    assert RulesWorld().apply(*events).state() == RulesWorld().apply(*events[::-1]).state()


@pytest.mark.parametrize("is_first", [True, False])
def test_C11_two_updates_of_one_second_change_different_fields(make: StripeEvents, is_first: bool) -> None:
    before = make.customer(created=NOW)
    chosen = before | {"invoice_settings": before["invoice_settings"] | {"default_payment_method": "pm_1"}}
    renamed = chosen | {"email": "new@example.com", "name": "New"}
    events = [
        make.event("customer.created", before, NOW),
        make.event(
            "customer.updated",
            chosen,
            NOW,
            previous={"invoice_settings": {"default_payment_method": None}},
            id_="evt_9",
        ),
        make.event("customer.updated", renamed, NOW, previous={"email": "jane@example.com"}, id_="evt_1"),
    ]
    row = RulesWorld().apply(*(events if is_first else [events[0], events[2], events[1]])).customer()
    assert (row.email, row.name, row.default_payment_method) == ("new@example.com", "New", "pm_1")


def test_D2_two_values_of_one_second_are_settled_by_stripe(make: StripeEvents) -> None:
    """If neither says that it replaced the other, only Stripe knows the present address; equal ones are no tie."""
    first = updated(make, NOW + 9, {"email": "jane@example.com"}, email="one@example.com")
    second = updated(make, NOW + 9, {"email": "jane@example.com"}, email="two@example.com")
    for events in ((first, second), (second, first)):
        world = RulesWorld().apply(created(make), *events)
        assert [call.path for call in world.calls.values()] == ["/v1/customers/cus_1"]
    same = updated(make, NOW + 9, {"email": "old@example.com"}, email="one@example.com")
    assert RulesWorld().apply(created(make), first, same).calls == {}
