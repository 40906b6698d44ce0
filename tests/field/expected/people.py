"""Users, customers, personal data and cards (behaviours.md B2, B4, B6, C6, C11, C12)."""

from __future__ import annotations

from schemas.state import User
from tests.field.harness import Played, case


def _email_of(played: Played, user_id: str, account: str = "") -> str | None:
    user = played.known.user(account, user_id)
    assert user is not None
    return user.email


@case("48")
def a_person_who_has_another_customer_stays(played: Played) -> None:
    """No win-back, no erasure, and the mail does not say that everything is over."""
    assert "win-back" not in played.templates()
    canceled = played.mail("subscription-canceled")
    assert (canceled.customer_id, canceled.data["erase_at"]) == ("cus_fb48old", None)
    assert played.customer("cus_fb48old").erased_at is None
    assert _email_of(played, "user_fb48") == "cus_fb48old@mail.example"


@case("88")
def a_second_customer_without_an_address(played: Played) -> None:
    assert _email_of(played, "user_fb88") == "mo@mail.example"
    for customer_id in ("cus_fb88M", "cus_fb88N"):
        organization = played.organization(customer_id)
        assert played.known.membership(organization.organization_id, "user_fb88") is not None


@case("100")
def an_unrelated_update_changes_no_link(played: Played) -> None:
    assert played.customer("cus_fb100").user_id == "user_fb100ben"
    organization = played.organization("cus_fb100").organization_id
    assert played.known.membership(organization, "user_fb100ben") is not None
    assert played.known.membership(organization, "user_fb100anna") is None
    assert _email_of(played, "user_fb100anna") is None


@case("107")
def an_invoice_without_a_name_keeps_the_name(played: Played) -> None:
    assert played.organization("cus_fb107").name == "Ada Vo"
    assert played.customer("cus_fb107").email == "ada.alias@mail.example"


@case("105", "106")
def an_invoice_is_paid_after_the_erasure(played: Played) -> None:
    assert played.payment("in_fb105b").status == "succeeded"
    customer = played.customer("cus_fb105")
    assert customer.is_erased
    assert (customer.email, customer.name, customer.address) == (None, None, {})
    organization = played.organization("cus_fb105")
    assert (organization.name, organization.billing_email) == ("Organization sub_fb105", None)
    assert not [user for user in played.known.changed(User)[0] if user.email]


@case("78", "79")
def a_customer_comes_back_after_the_erasure(played: Played) -> None:
    customer = played.customer("cus_fb78")
    assert (customer.name, customer.email) == ("Name cus_fb78", "cus_fb78@mail.example")
    assert customer.erased_at is not None
    assert not customer.is_erased
    organization = played.organization("cus_fb78")
    assert (organization.status, organization.plan, organization.name) == ("active", "starter", "Name cus_fb78")
    assert "erase" not in played.timers("cus_fb78")
    assert {"subscription-welcome", "payment-receipt"} <= set(played.templates())


@case("37")
def an_address_changes_its_case_and_is_removed(played: Played) -> None:
    customer = played.customer("cus_fb37")
    assert customer.email is None
    assert played.organization("cus_fb37").billing_email is None


@case("69")
def the_card_of_the_subscription_expires(played: Played) -> None:
    """Stripe charges the subscription's own card, not the customer's newer default."""
    expiring = [mail for mail in played.mails if mail.template == "card-expiring"]
    assert expiring
    card = played.known.payment_method("", "pm_fb69A")
    assert card is not None
    assert {mail.data["last4"] for mail in expiring} == {card.last4}
