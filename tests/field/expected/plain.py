"""Cases that only must not go wrong: shapes, other products, connected accounts, deliveries at once."""

from __future__ import annotations

from tests.field.harness import Played, case


@case("14")
def an_invoice_made_by_hand(played: Played) -> None:
    row = played.payment("in_fb14m")
    assert (row.amount, row.currency, row.status) == (15000, "eur", "succeeded")
    assert played.templates() == ["payment-receipt"]
    assert played.dead == []


@case("19")
def a_delayed_checkout_whose_invoice_comes_first(played: Played) -> None:
    _is_one_purchase(played, "cs_test_fb19", "in_fb19s", "pi_fb19s")


@case("52")
def a_delayed_checkout_whose_invoice_comes_last(played: Played) -> None:
    _is_one_purchase(played, "cs_test_fb52", "in_fb52s", "pi_fb52s")


def _is_one_purchase(played: Played, *ids: str) -> None:
    rows = {played.payment(id_).payment_id for id_ in ids}
    row = played.payment(ids[0])
    assert len(rows) == 1
    assert (row.amount, row.status, row.fulfilled_at is not None) == (4900, "succeeded", True)
    assert played.templates().count("payment-receipt") == 1
    assert played.dead == []


@case("25")
def who_pays_in_euro_is_never_shown_dollars(played: Played) -> None:
    row = played.payment("in_fb25a")
    assert (row.amount, row.currency, row.status) == (1800, "eur", "succeeded")
    assert played.mail("payment-receipt").data["amount"] == {"amount": 1800, "currency": "eur"}
    welcome = played.mail("subscription-welcome").data
    assert welcome["price"] in (None, {"amount": 1800, "currency": "eur"})


@case("27")
def the_decline_reason_is_found_by_the_order_reference(played: Played) -> None:
    row = played.payment("in_fb27f")
    assert (row.status, row.failure_reason) == ("failed", "Your card has insufficient funds.")
    assert played.payment("in_fb27g").status == "failed"


@case("28")
def payment_methods_without_a_card(played: Played) -> None:
    assert played.dead == []
    assert set(played.outcomes.values()) == {"applied"}


@case("34")
def three_generations_of_the_api(played: Played) -> None:
    row = played.subscription("sub_fb34")
    assert (row.plan, row.customer_id, row.status, played.dead) == ("starter", "cus_fb34", "active", [])
    assert played.payment("in_fb34").subscription_id == "sub_fb34"


@case("38")
def the_same_ids_in_two_accounts(played: Played) -> None:
    amounts = [played.payment("in_fb38a", account).amount for account in ("acct_fb38a", "acct_fb38b")]
    assert amounts == [1000, 7000]
    subscriptions = {played.subscription("sub_fb38", account).key for account in ("acct_fb38a", "acct_fb38b")}
    assert len(subscriptions) == 2


@case("46")
def a_thin_event(played: Played) -> None:
    assert set(played.outcomes.values()) == {"ignored"}


@case("83")
def other_products(played: Played) -> None:
    assert played.dead == []
    assert {*played.outcomes.values()} <= {"applied", "ignored"}


@case("89")
def a_connected_account_leaves(played: Played) -> None:
    """The reminder is withheld when it is due: tests/contract/sinks/email/test_checks.py."""
    assert set(played.outcomes.values()) == {"applied"}
    assert played.payment("in_fb89b", "acct_fb89shop").status == "failed"


@case("93")
def the_unknown_plan_is_named_in_the_ledger(played: Played) -> None:
    assert played.subscription("sub_fb93").plan == "pro"
    if played.reasons:  # in memory no reason is kept
        assert "'Pro'" in played.reasons["evt_fb93n03"]


@case("95")
def the_same_event_through_two_endpoints(played: Played) -> None:
    assert played.templates() == ["payment-receipt", "subscription-welcome"]
    assert (played.payment("in_fb95a").amount, played.payment("in_fb95a").status) == (2000, "succeeded")
