"""Status, plan and access of subscriptions (behaviours.md B1, B3, B4, B7 to B9, C1, C2, D2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.field.harness import Played, case


def _state(played: Played, subscription_id: str, customer_id: str) -> tuple[str, str, str | None]:
    """The status of the subscription and of the organization, and the organization's plan."""
    organization = played.organization(customer_id)
    return played.subscription(subscription_id).status, organization.status, organization.plan


# -- Stripe's word is the authority on the status --------------------------------------------------------------------


@case("01")
def an_older_invoice_is_paid(played: Played) -> None:
    assert _state(played, "sub_fb01", "cus_fb01") == ("unpaid", "payment_failed", "free")
    assert not played.organization("cus_fb01").has_access
    assert played.payment("in_fb01b").status == "succeeded"
    assert played.subscription("sub_fb01").failed_invoice is None
    assert played.organization("cus_fb01").billing_status == "failed"


@case("22")
def a_failed_try_beside_the_payment(played: Played) -> None:
    row = played.subscription("sub_fb22")
    assert (row.status, row.payment_failed_at, row.failed_invoice) == ("active", None, None)
    organization = played.organization("cus_fb22")
    assert (organization.status, organization.billing_status) == ("active", "paid")


@case("30")
def a_card_is_declined_before_the_due_date(played: Played) -> None:
    assert _state(played, "sub_fb30", "cus_fb30") == ("active", "active", "pro")
    assert played.subscription("sub_fb30").payment_failed_at is None


@case("31")
def a_pending_update_is_declined(played: Played) -> None:
    assert _state(played, "sub_fb31", "cus_fb31") == ("active", "active", "starter")
    assert played.organization("cus_fb31").billing_status != "failed"


@case("32")
def a_pending_update_is_declined_and_expires(played: Played) -> None:
    assert _state(played, "sub_fb32", "cus_fb32") == ("active", "active", "starter")


@case("33")
def a_late_payment_revives_nothing(played: Played) -> None:
    assert {row.status for row in played.known.subscriptions_of("", "cus_fb33")} == {"canceled"}
    assert played.organization("cus_fb33").plan == "free"


@case("36")
def a_trial_is_paused_and_resumed(played: Played) -> None:
    assert _state(played, "sub_fb36", "cus_fb36") == ("active", "active", "pro")
    assert played.dead == []


@case("47")
def a_delayed_first_payment_fails(played: Played) -> None:
    assert _state(played, "sub_fb47", "cus_fb47") == ("incomplete", "incomplete", "free")
    assert "subscription-welcome" not in played.templates()


@case("55")
def another_subscription_is_tried(played: Played) -> None:
    assert _state(played, "sub_fb55A1", "cus_fb55") == ("active", "active", "starter")
    assert played.subscription("sub_fb55B2").status == "incomplete"
    assert played.organization("cus_fb55").billing_status == "paid"


@case("56")
def two_updates_of_one_second(played: Played) -> None:
    assert _state(played, "sub_fb56", "cus_fb56") == ("active", "active", "pro")
    assert "subscription-welcome" in played.templates()


@case("58")
def a_customer_who_did_not_pay_gets_a_trial(played: Played) -> None:
    assert _state(played, "sub_fb58", "cus_fb58") == ("trialing", "trialing", "pro")


@case("86")
def the_first_invoice_of_a_quote_fails(played: Played) -> None:
    assert _state(played, "sub_fb86", "cus_fb86") == ("incomplete", "incomplete", "free")


@case("98")
def an_extra_invoice_fails(played: Played) -> None:
    assert _state(played, "sub_fb98", "cus_fb98") == ("active", "active", "pro")


@case("98", repair=True)
def a_repair_confirms_the_status(played: Played) -> None:
    assert _state(played, "sub_fb98", "cus_fb98") == ("active", "active", "pro")


@case("108")
def an_extra_invoice_fails_and_is_paid(played: Played) -> None:
    assert _state(played, "sub_fb108", "cus_fb108") == ("active", "active", "pro")
    assert played.subscription("sub_fb108").payment_failed_at is None


# -- effects follow the change of state ------------------------------------------------------------------------------


@case("97", repair=True)
def a_missed_end_is_repaired(played: Played) -> None:
    """Erased 30 days after the end at the latest, and no win-back mail long after it."""
    assert _state(played, "sub_fb97", "cus_fb97") == ("canceled", "cancelled", "free")
    ended_at = played.subscription("sub_fb97").ended_at
    assert ended_at is not None
    erased = played.customer("cus_fb97").erased_at is not None
    timers = played.timers("cus_fb97")
    assert erased or timers["erase"].due_at == ended_at + timedelta(days=30)


@case("07")
def one_of_two_subscriptions_ends(played: Played) -> None:
    organization = played.organization("cus_fb07")
    assert (organization.status, organization.plan) == ("active", "pro")
    assert played.customer("cus_fb07").erased_at is None
    assert "win-back" not in played.templates()


@case("09")
def an_update_before_its_creation(played: Played) -> None:
    assert played.subscription("sub_fb09").status == "active"
    assert played.templates() == ["subscription-welcome"]


@case("10")
def a_first_payment_never_arrives(played: Played) -> None:
    assert _state(played, "sub_fb10", "cus_fb10") == ("incomplete_expired", "cancelled", "free")
    assert not {"subscription-welcome", "subscription-canceled"} & set(played.templates())


# -- plans, items, several subscriptions -----------------------------------------------------------------------------


@case("04")
def a_metered_item_comes_first(played: Played) -> None:
    row, organization = played.subscription("sub_fb04"), played.organization("cus_fb04")
    assert (row.price_id, row.plan, len(row.items)) == ("price_pro_monthly", "pro", 2)
    assert (organization.plan, organization.limits) == ("pro", {"seats": 50, "projects": 500})
    assert played.mail("subscription-welcome").data["plan"] == "Pro"


@case("06")
def two_subscriptions_two_plans(played: Played) -> None:
    organization = played.organization("cus_fb06")
    assert (organization.plan, organization.limits["seats"]) == ("pro", 50)


@case("25")
def a_price_in_several_currencies(played: Played) -> None:
    row = played.subscription("sub_fb25")
    assert row.currency == "eur"
    assert (row.unit_amount, row.currency) != (2000, "eur")
    assert "usd" not in str([mail.data for mail in played.mails])


@case("41")
def the_old_one_of_two_subscriptions_is_past_due(played: Played) -> None:
    assert (played.organization("cus_fb41").plan, played.organization("cus_fb41").has_access) == ("pro", True)


@case("42")
def an_event_without_a_price_keeps_the_price(played: Played) -> None:
    row = played.subscription("sub_fb42")
    assert (row.price_id, row.quantity, played.dead) == ("price_1PxYzAbCdEfGh", 1, [])


@case("50")
def seats_are_added(played: Played) -> None:
    assert played.subscription("sub_fb50").quantity == 7
    assert "plan-changed" not in played.templates()


@case("67")
def a_yearly_and_a_monthly_item(played: Played) -> None:
    assert played.organization("cus_fb67").next_billing_at == datetime.fromtimestamp(1796032800, UTC)
    assert played.organization("cus_fb67").plan == "pro"


@case("68")
def packages_are_kept(played: Played) -> None:
    (item,) = played.subscription("sub_fb68").items
    assert (item["quantity"], item["divide_by"], item["round"]) == (35, 10, "up")


@case("80")
def a_scheduled_downgrade_is_mailed_once(played: Played) -> None:
    assert played.templates().count("plan-changed") == 1
    assert played.dead == []


@case("87")
def a_free_plan_is_left(played: Played) -> None:
    assert played.organization("cus_fb87F").plan == "pro"
    assert played.templates("cus_fb87F").count("plan-changed") == 1


@case("93")
def the_plan_of_the_checkout_is_unknown(played: Played) -> None:
    row = played.subscription("sub_fb93")
    assert (row.plan, row.checkout_plan) == ("pro", "Pro")
    assert played.organization("cus_fb93").plan == "pro"


# -- scheduled ends --------------------------------------------------------------------------------------------------


@case("03")
def a_cancellation_with_flexible_billing(played: Played) -> None:
    row, organization = played.subscription("sub_fb03"), played.organization("cus_fb03")
    assert row.cancel_at == datetime.fromtimestamp(1797760800, UTC)
    assert (organization.next_billing_at, organization.access_changes_at) == (None, row.cancel_at)
    assert organization.has_access


@case("13")
def a_collection_is_paused(played: Played) -> None:
    row, organization = played.subscription("sub_fb13"), played.organization("cus_fb13")
    assert (row.status, row.pause_collection) == ("active", "void")
    assert (organization.next_billing_at, organization.access_reason) == (None, "collection_paused")
    assert organization.has_access


@case("44")
def a_cancellation_is_taken_back(played: Played) -> None:
    row = played.subscription("sub_fb44")
    assert (row.cancel_at_period_end, row.canceled_at, row.cancel_at) == (False, None, None)
    assert played.organization("cus_fb44").next_billing_at == row.current_period_end
