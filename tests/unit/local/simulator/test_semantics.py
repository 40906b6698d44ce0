"""The simulator against Stripe's billing semantics, one statement of the documentation after another."""

from __future__ import annotations

import pytest

from local.stripe.builder import ApiShape
from local.stripe.simulator import changes, checkout, collection, credits, customers, disputes, endings, invoices
from local.stripe.simulator.books import DAY_S, HOUR_S, Json
from local.stripe.simulator.refunds import refund
from local.stripe.simulator.renewals import resume
from local.stripe.simulator.stripe import SimulatedStripe
from local.stripe.simulator.subscriptions import create_subscription, items_of, period_of
from tests.kits.simulatorkit import MONTH, START, Scene


def test_a_subscription_event_is_sent_only_where_the_subscription_changed() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(MONTH + HOUR_S)
    assert subscription["status"] == "past_due"
    first = scene.latest(subscription)
    scene.wait(3 * DAY_S)  # the second attempt fails: the subscription stays as it is
    types = scene.since(lambda: collection.attempt(scene.books, first, None))
    assert "invoice.payment_failed" in types
    assert "customer.subscription.updated" not in types


def test_only_the_latest_invoice_moves_the_status() -> None:
    scene = Scene(after_retries="past_due")
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(MONTH + HOUR_S)
    older = scene.latest(subscription)
    scene.wait(MONTH)
    assert scene.latest(subscription) is not older
    good = customers.attach_card(scene.books, scene.customer, default=False)
    collection.attempt(scene.books, older, good)
    assert (older["status"], subscription["status"]) == ("paid", "past_due")
    collection.attempt(scene.books, scene.latest(subscription), good)
    assert subscription["status"] == "active"


def test_a_written_off_latest_invoice_makes_it_active() -> None:
    scene = Scene(card="declined")
    scene.set_card("ok")
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(MONTH + HOUR_S)
    invoices.mark_uncollectible(scene.books, scene.latest(subscription))
    assert subscription["status"] == "active"


def test_a_trial_makes_a_past_due_subscription_trialing() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(MONTH + HOUR_S)
    changes.move_trial(scene.books, subscription, scene.books.now + 20 * DAY_S)
    event = scene.last("customer.subscription.updated")
    assert event["data"]["object"]["status"] == "trialing"
    assert event["data"]["previous_attributes"]["status"] == "past_due"


@pytest.mark.parametrize(
    ("after_retries", "status"), [("cancel", "canceled"), ("unpaid", "unpaid"), ("past_due", "past_due")]
)
def test_after_the_last_retry_the_setting_decides(after_retries: str, status: str) -> None:
    scene = Scene(after_retries=after_retries)
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(MONTH + 16 * DAY_S)
    invoice = scene.latest(subscription)
    assert (invoice["attempt_count"], invoice["next_payment_attempt"]) == (4, None)
    assert subscription["status"] == status
    if status == "canceled":
        assert subscription["cancellation_details"]["reason"] == "payment_failed"


def test_an_unpaid_subscription_gets_drafts_only() -> None:
    scene = Scene(after_retries="unpaid")
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(2 * MONTH)
    assert subscription["status"] == "unpaid"
    assert scene.latest(subscription)["status"] == "draft"


def test_a_sent_invoice_is_past_due_after_its_date_not_after_a_declined_card() -> None:
    scene = Scene()
    subscription = scene.subscribe(collection="send_invoice")
    scene.wait(HOUR_S)
    invoice = scene.latest(subscription)
    collection.attempt(scene.books, invoice, None)
    assert (invoice["attempt_count"], invoice["next_payment_attempt"], subscription["status"]) == (1, None, "active")
    assert "invoice.overdue" in scene.since(lambda: scene.wait(30 * DAY_S))
    assert subscription["status"] == "past_due"


def test_a_declined_pending_update_leaves_the_subscription_as_it_was() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(5 * DAY_S)
    changes.change_price(scene.books, subscription, "price_team", 1, billing="now", if_paid=True)
    invoice = scene.latest(subscription)
    assert (subscription["status"], items_of(subscription)[0]["price"]["id"]) == ("active", "price_pro")
    assert subscription["pending_update"] is not None
    types = scene.since(lambda: scene.wait(23 * HOUR_S))
    assert (invoice["status"], subscription["pending_update"]) == ("void", None)
    assert "customer.subscription.pending_update_expired" in types


def test_a_pending_update_applies_once_its_invoice_is_paid() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    scene.set_card("declined")
    scene.wait(5 * DAY_S)
    changes.change_price(scene.books, subscription, "price_team", 1, billing="now", if_paid=True)
    good = customers.attach_card(scene.books, scene.customer)
    types = scene.since(lambda: collection.attempt(scene.books, scene.latest(subscription), good))
    assert items_of(subscription)[0]["price"]["id"] == "price_team"
    assert "customer.subscription.pending_update_applied" in types


def test_the_first_invoice_counts_one_attempt_from_the_start_and_plans_none() -> None:
    scene = Scene()
    subscription = scene.subscribe(pays_at_once=False)
    invoice = scene.latest(subscription)
    assert (invoice["attempt_count"], invoice["next_payment_attempt"]) == (1, None)
    scene.wait(23 * HOUR_S)
    assert (subscription["status"], invoice["status"]) == ("incomplete_expired", "void")


@pytest.mark.parametrize("is_flexible", [True, False])
def test_flexible_billing_cancels_with_cancel_at_alone(is_flexible: bool) -> None:
    scene = Scene()
    subscription = scene.subscribe(is_flexible=is_flexible)
    endings.cancel_at_period_end(scene.books, subscription)
    assert subscription["cancel_at"] == period_of(subscription)[1]
    assert subscription["cancel_at_period_end"] is not is_flexible
    scene.wait(MONTH)
    assert (subscription["status"], subscription["ended_at"]) == ("canceled", START + MONTH)


def test_a_cancellation_can_be_taken_back() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    endings.cancel_at_period_end(scene.books, subscription)
    endings.undo(scene.books, subscription)
    scene.wait(MONTH + HOUR_S)
    assert (subscription["status"], subscription["canceled_at"]) == ("active", None)


@pytest.mark.parametrize(
    ("behavior", "status"), [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")]
)
def test_a_paused_collection_leaves_the_status_active(behavior: str, status: str) -> None:
    scene = Scene()
    subscription = scene.subscribe()
    changes.pause_collection(scene.books, subscription, behavior, None)
    scene.wait(MONTH + HOUR_S)
    assert (subscription["status"], scene.latest(subscription)["status"]) == ("active", status)


def test_paused_is_a_trial_that_ended_without_a_payment_method() -> None:
    scene = Scene()
    customers.detach(scene.books, scene.card)
    subscription = scene.subscribe(trial_days=14, missing_method="pause")
    assert "customer.subscription.trial_will_end" in scene.since(lambda: scene.wait(14 * DAY_S))
    assert subscription["status"] == "paused"
    customers.attach_card(scene.books, scene.customer)
    resume(scene.books, subscription)
    scene.wait(HOUR_S)
    assert (subscription["status"], scene.latest(subscription)["status"]) == ("active", "paid")


def test_the_first_invoice_of_a_trial_is_0_and_paid_without_an_intent() -> None:
    scene = Scene()
    types = scene.since(lambda: scene.subscribe(trial_days=14))
    assert "invoice.paid" in types
    assert not [type_ for type_ in types if type_.startswith(("charge.", "payment_intent."))]


def test_the_currency_of_the_subscription_decides_not_that_of_the_price() -> None:
    scene = Scene()
    subscription = scene.subscribe("price_team", currency="usd")
    assert (subscription["currency"], items_of(subscription)[0]["price"]["currency"]) == ("usd", "eur")
    invoice = scene.latest(subscription)
    assert (invoice["currency"], invoice["amount_paid"]) == ("usd", 10_900)
    assert "currency_options" not in items_of(subscription)[0]["price"]


@pytest.mark.parametrize(
    ("price", "quantity", "amount"),
    [("price_team_packs", 35, 20_000), ("price_tiered", 12, 3400), ("price_pro", 5, 14_500)],
)
def test_packages_and_tiers_are_billed_as_such(price: str, quantity: int, amount: int) -> None:
    scene = Scene()
    assert scene.latest(scene.subscribe(price, quantity=quantity))["total"] == amount


def test_the_address_of_an_invoice_is_frozen_when_it_is_finalized() -> None:
    scene = Scene(card="declined")
    subscription = scene.subscribe()
    customers.update_customer(scene.books, scene.customer, email="new@example.com")
    collection.attempt(scene.books, scene.latest(subscription), None)
    assert scene.last("invoice.payment_failed")["data"]["object"]["customer_email"] == "ada@example.com"


def test_an_invoice_can_be_paid_in_parts() -> None:
    scene = Scene(card="declined")
    subscription = scene.subscribe()
    invoice = scene.latest(subscription)
    good = customers.attach_card(scene.books, scene.customer)
    collection.pay_part(scene.books, invoice, 900, good)
    assert (invoice["status"], invoice["amount_paid"], invoice["amount_remaining"]) == ("open", 900, 2000)
    collection.pay_part(scene.books, invoice, 2000, good)
    assert (invoice["status"], invoice["amount_paid"], invoice["amount_remaining"]) == ("paid", 2900, 0)
    assert [event.type for event in scene.books.events].count("invoice_payment.paid") == 2


def test_credit_balance_pays_an_invoice_without_an_intent() -> None:
    scene = Scene()
    customers.add_to_balance(scene.books, scene.customer, -5000)
    invoice = scene.latest(scene.subscribe())
    assert (invoice["status"], invoice["amount_due"], invoice["amount_paid"], invoice["_intent"]) == (
        "paid",
        0,
        0,
        None,
    )
    assert (invoice["starting_balance"], invoice["ending_balance"], scene.customer["balance"]) == (-5000, -2100, -2100)


def test_out_of_band_pays_without_a_charge() -> None:
    scene = Scene(card="declined")
    invoice = scene.latest(scene.subscribe())
    types = scene.since(lambda: collection.pay_out_of_band(scene.books, invoice))
    assert (invoice["status"], invoice["_charge"]) == ("paid", None)
    assert "charge.succeeded" not in types


def test_a_credit_note_reduces_what_is_owed() -> None:
    scene = Scene(card="declined")
    invoice = scene.latest(scene.subscribe())
    credits.credit_open_invoice(scene.books, invoice, 900)
    assert (invoice["amount_due"], invoice["amount_remaining"], invoice["total"]) == (2000, 2000, 2900)
    assert scene.last("invoice.updated")["data"]["previous_attributes"]["amount_remaining"] == 2900


@pytest.mark.parametrize("is_first", [True, False])
def test_the_invoice_of_a_purchase_comes_before_or_after_the_session(is_first: bool) -> None:
    scene = Scene()
    more: Json = {"customer": scene.customer, "with_invoice": True, "invoice_first": is_first}
    types = scene.since(lambda: checkout.buy(scene.books, 4900, "eur", email="a@example.com", **more))
    assert (types.index("invoice.paid") < types.index("checkout.session.completed")) is is_first


@pytest.mark.parametrize(("behavior", "type_"), [("ok", "succeeded"), ("declined", "failed")])
def test_a_debit_is_settled_days_after_the_checkout(behavior: str, type_: str) -> None:
    scene = Scene()
    debit = customers.attach_debit(scene.books, scene.customer, behavior)
    session = checkout.buy(scene.books, 4900, "eur", email="a@example.com", customer=scene.customer, method=debit)
    assert (session["status"], session["payment_status"]) == ("complete", "unpaid")
    assert f"checkout.session.async_payment_{type_}" in scene.since(lambda: scene.wait(4 * DAY_S))


def test_manual_capture_sends_no_async_payment_succeeded() -> None:
    scene = Scene()
    session = checkout.buy(scene.books, 4900, "eur", email="a@example.com", customer=scene.customer, by_hand=True)
    assert session["payment_status"] == "unpaid"
    types = scene.since(lambda: checkout.capture_purchase(scene.books, session, is_taken=True))
    assert types == ["charge.captured", "payment_intent.succeeded"]


def test_a_dispute_of_a_debit_is_lost_when_it_is_created() -> None:
    scene = Scene()
    debit = customers.attach_debit(scene.books, scene.customer)
    checkout.buy(scene.books, 4900, "eur", email="a@example.com", customer=scene.customer, method=debit)
    scene.wait(4 * DAY_S)
    disputes.open_dispute(scene.books, scene.books.all("charge")[-1])
    assert scene.last("charge.dispute.created")["data"]["object"]["status"] == "lost"


def test_an_inquiry_takes_no_money_until_it_is_a_chargeback() -> None:
    scene = Scene()
    scene.subscribe()
    charge = scene.books.all("charge")[0]
    types = scene.since(lambda: disputes.open_dispute(scene.books, charge, inquiry=True))
    assert "charge.dispute.funds_withdrawn" not in types
    dispute = scene.books.all("dispute")[0]
    first_date = dispute["evidence_details"]["due_by"]
    scene.wait(DAY_S)
    assert "charge.dispute.funds_withdrawn" in scene.since(lambda: disputes.escalate(scene.books, dispute))
    assert dispute["evidence_details"]["due_by"] == first_date + DAY_S
    assert "charge.dispute.funds_reinstated" in scene.since(lambda: disputes.close(scene.books, dispute, "won"))


def test_a_refund_that_fails_is_taken_back() -> None:
    scene = Scene()
    scene.subscribe()
    charge = scene.books.all("charge")[0]
    refund(scene.books, charge, 900, "failed")
    assert charge["amount_refunded"] == 900
    types = scene.since(lambda: scene.wait(5 * DAY_S))
    assert charge["amount_refunded"] == 0
    assert {"refund.failed", "charge.refund.updated"} <= set(types)


def test_what_is_left_of_a_period_is_credited_and_charged() -> None:
    scene = Scene()
    subscription = scene.subscribe()
    scene.wait(MONTH // 2)
    changes.change_price(scene.books, subscription, "price_team", 1, billing="now", if_paid=False)
    invoice = scene.latest(subscription)
    assert [line["amount"] for line in invoice["lines"]["data"]] == [-1450, 4950]
    assert (invoice["billing_reason"], invoice["amount_paid"]) == ("subscription_update", 3500)
    scene.wait(MONTH)
    changes.change_price(scene.books, subscription, "price_team", 4, billing="now", if_paid=False)
    assert [line["quantity"] for line in scene.latest(subscription)["lines"]["data"]] == [1, 4]


def test_a_schedule_changes_the_price_at_the_end_of_the_period_and_lets_go() -> None:
    scene = Scene()
    subscription = scene.subscribe("price_team")
    changes.schedule_change(scene.books, subscription, "price_pro")
    types = scene.since(lambda: scene.wait(MONTH + 2 * DAY_S))
    assert (items_of(subscription)[0]["price"]["id"], subscription["schedule"]) == ("price_pro", None)
    assert "subscription_schedule.released" in types


def test_the_events_of_both_shapes() -> None:
    scene = Scene()
    scene.subscribe()
    old = scene.last("customer.subscription.created", ApiShape.OLD)["data"]["object"]
    new = scene.last("customer.subscription.created")["data"]["object"]
    assert old["current_period_end"] == new["items"]["data"][0]["current_period_end"]
    assert "current_period_end" not in new
    assert "current_period_end" not in old["items"]["data"][0]
    assert old["plan"]["id"] == "price_pro"
    invoice = scene.last("invoice.paid", ApiShape.OLD)["data"]["object"]
    assert invoice["subscription"] == old["id"]
    assert "parent" not in invoice
    assert scene.last("invoice.paid")["data"]["object"]["parent"]["subscription_details"]["subscription"] == old["id"]
    assert scene.last("charge.succeeded", ApiShape.OLD)["data"]["object"]["invoice"] == invoice["id"]
    assert "invoice" not in scene.last("charge.succeeded")["data"]["object"]
    intent = scene.last("payment_intent.succeeded")["data"]["object"]
    assert intent["payment_details"] == {"order_reference": invoice["id"]}


def test_an_event_shows_the_object_as_it_was_then() -> None:
    scene = Scene()
    subscription = scene.subscribe(shows_start=True)
    assert scene.last("customer.subscription.created")["data"]["object"]["status"] == "incomplete"
    assert subscription["status"] == "active"
    updates = [event.render() for event in scene.books.events if event.type == "customer.subscription.updated"]
    assert [update["data"]["previous_attributes"] for update in updates][-1] == {"status": "incomplete"}


def test_the_same_seed_gives_the_same_events() -> None:
    def life(seed: str) -> list[str]:
        stripe = SimulatedStripe(START, seed)
        customer = customers.create_customer(stripe.books, email="a@example.com", name=None)
        customers.attach_card(stripe.books, customer)
        create_subscription(stripe.books, customer, [("price_pro", 1)])
        return [event.id for event in stripe.events()]

    assert life("7") == life("7")
    assert set(life("7")).isdisjoint(life("8"))
