"""Status, plan and access of subscriptions (behaviours.md B3, B7 to B9, C1, C2)."""

from __future__ import annotations

from tests.field.harness import Played, case


@case("07")
def one_of_two_subscriptions_ends(played: Played) -> None:
    organization = played.organization("cus_fb07")
    assert (organization.status, organization.plan) == ("active", "pro")
    assert "erase" not in played.timers("cus_fb07")
    assert "win-back" not in played.templates()


@case("09")
def an_update_before_its_creation(played: Played) -> None:
    assert played.subscription("sub_fb09").status == "active"
    assert played.templates() == ["subscription-welcome"]


@case("44")
def a_cancellation_is_taken_back(played: Played) -> None:
    row = played.subscription("sub_fb44")
    assert (row.cancel_at_period_end, row.canceled_at) == (False, None)
    assert played.organization("cus_fb44").next_billing_at == row.current_period_end


@case("80")
def a_scheduled_downgrade_is_mailed_once(played: Played) -> None:
    assert played.templates().count("plan-changed") <= 1
    assert played.dead == []
