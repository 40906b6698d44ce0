"""Payments, refunds, disputes and purchases (behaviours.md B2, C8 to C10, C14 to C16)."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.state import Dispute, Payment
from schemas.statuses import TimerStatus
from tests.field.harness import Played, case


def one_payment(played: Played) -> Payment:
    (row,) = payments(played)
    return row


def payments(played: Played) -> list[Payment]:
    return list(played.known._now[Payment].values())


def _facts(row: Payment) -> tuple[str, int, str, int]:
    return (row.status, row.amount, row.currency, row.refunded_amount)


@case("10")
def an_incomplete_subscription_expires(played: Played) -> None:
    assert one_payment(played).status == "closed"
    assert "subscription-welcome" not in played.templates()
    assert played.dead == []


@case("15")
def several_refunds_of_which_one_fails(played: Played) -> None:
    assert _facts(one_payment(played)) == ("refunded", 2000, "eur", 300)


@case("16")
def the_only_refund_fails(played: Played) -> None:
    assert _facts(one_payment(played)) == ("succeeded", 2000, "eur", 0)


@case("17")
def a_sepa_dispute_is_lost_at_once(played: Played) -> None:
    assert (one_payment(played).status, one_payment(played).on_hold) == ("lost", False)
    assert [name for name in played.templates() if name.startswith("dispute")] == ["dispute-lost"]
    assert played.mail("dispute-lost").data["link"] == "https://dashboard.stripe.com/test/disputes/dp_fb17"


@case("18")
def a_lost_dispute_is_won_after_all(played: Played) -> None:
    row = played.known.dispute("", "dp_fb18")
    assert isinstance(row, Dispute)
    assert (row.status, row.closed_at is not None) == ("won", True)
    assert row.funds_withdrawn_at is not None
    assert row.funds_reinstated_at is not None
    assert (one_payment(played).status, one_payment(played).on_hold) == ("succeeded", False)
    assert played.templates().count("dispute-opened") == 1


def _bought_once(played: Played) -> None:
    row = one_payment(played)
    assert _facts(row) == ("succeeded", 4900, "eur", 0)
    assert row.fulfilled_at == datetime.fromtimestamp(1788688800, UTC)
    assert played.templates().count("payment-receipt") == 1
    assert played.dead == []


case("19")(_bought_once)
case("52")(_bought_once)


@case("20")
def a_guest_pays_later(played: Played) -> None:
    _bought_once(played)
    assert played.mail("payment-receipt").recipient == "guest.fb20@mail.example"


@case("21")
def an_invoice_is_paid_in_two_parts(played: Played) -> None:
    row = one_payment(played)
    assert _facts(row) == ("refunded", 2000, "eur", 1200)
    assert row.on_hold is True
    assert played.mail("payment-failed").data["amount"] == {"amount": 1200, "currency": "eur"}
    assert set(played.known.payment_ids("", "in_fb21p")) == {"in_fb21p", "pi_fb21p1", "pi_fb21p2", "ch_fb21p2"}


@case("22")
def a_failed_try_beside_the_payment(played: Played) -> None:
    assert _facts(one_payment(played)) == ("succeeded", 2000, "eur", 0)


@case("23")
def a_draft_is_deleted_and_an_open_invoice_voided(played: Played) -> None:
    assert played.known.payment("", "in_fb23d") is None
    assert played.payment("in_fb23v").status == "closed"


@case("24")
def currencies_without_two_decimals(played: Played) -> None:
    receipts = [mail.data["amount"] for mail in played.mails if mail.template == "payment-receipt"]
    assert {"amount": 5000, "currency": "jpy"} in receipts
    assert {"amount": 12340, "currency": "kwd"} in receipts
    assert len(receipts) == 5


@case("29")
def an_invoice_is_paid_from_the_balance(played: Played) -> None:
    for invoice_id in ("in_fb29c", "in_fb29n"):
        assert (played.payment(invoice_id).status, played.payment(invoice_id).amount) == ("succeeded", 0)
    assert played.dead == []


@case("35")
def a_refund_of_a_loose_charge_waits(played: Played) -> None:
    assert played.outcomes["evt_fb35n03"] == "waiting"
    assert payments(played) == []


@case("61")
def a_destination_charge_is_refunded_on_both_accounts(played: Played) -> None:
    assert _facts(one_payment(played)) == ("refunded", 10000, "eur", 10000)
    assert "waiting" not in played.outcomes.values()


@case("63")
def a_purchase_with_an_invoice(played: Played) -> None:
    row = one_payment(played)
    assert _facts(row) == ("succeeded", 4900, "eur", 0)
    assert (row.invoice_id, row.checkout_session_id) == ("in_fb63a", "cs_test_fb63a")
    assert row.fulfilled_at is not None
    assert played.templates().count("payment-receipt") == 1


@case("66")
def a_credit_note_after_the_payment(played: Played) -> None:
    assert _facts(one_payment(played)) == ("refunded", 2000, "eur", 600)
    assert played.dead == []


@case("76")
def one_event_in_two_api_versions(played: Played) -> None:
    assert one_payment(played).status in ("succeeded", "refunded")
    assert played.templates().count("payment-receipt") == 1


@case("77")
def a_refund_of_a_subscriptions_payment(played: Played) -> None:
    assert _facts(played.payment("in_fb77a")) == ("refunded", 2000, "eur", 2000)


@case("81")
def a_dispute_ends_a_subscription(played: Played) -> None:
    assert one_payment(played).on_hold is True
    assert "dispute-opened" in played.templates()


@case("82")
def a_written_off_invoice_is_paid(played: Played) -> None:
    row = one_payment(played)
    assert (row.status, row.lost_at, row.amount_remaining) == ("succeeded", None, 0)
    assert "payment-receipt" in played.templates()


@case("84")
def checkout_variants(played: Played) -> None:
    assert played.known.payment("", "cs_test_fb84s") is None
    nothing, guest = played.payment("cs_test_fb84z"), played.payment("cs_test_fb84g")
    assert (nothing.status, nothing.amount, nothing.fulfilled_at is not None) == ("succeeded", 0, True)
    assert (guest.status, guest.amount, guest.fulfilled_at is not None) == ("succeeded", 1900, True)
    assert [mail.data["amount"]["amount"] for mail in played.mails if mail.template == "payment-receipt"] == [8500]
    assert played.templates().count("subscription-welcome") == 1


@case("90/a", "90/b")
def an_inquiry_becomes_a_chargeback(played: Played) -> None:
    changes = [mail.data["change"] for mail in played.mails if mail.template == "dispute-opened"]
    assert changes == ["inquiry", "escalated"]
    due = [timer.due_at for timer in played.known.timers_of("", "cus_fb90x", "") if timer.status is TimerStatus.PENDING]
    assert datetime.fromtimestamp(1796670100 - 2 * 86400, UTC) in due


@case("94")
def a_credit_note_before_the_reminder(played: Played) -> None:
    row = one_payment(played)
    assert (row.status, row.amount, row.amount_remaining) == ("failed", 6000, 6000)
    assert played.mail("payment-failed").data["amount"] == {"amount": 10000, "currency": "eur"}


@case("99")
def purchases_with_manual_capture(played: Played) -> None:
    captured, canceled = played.payment("cs_test_fb99a"), played.payment("cs_test_fb99b")
    assert (captured.status, captured.amount) == ("succeeded", 6000)
    assert captured.fulfilled_at == datetime.fromtimestamp(1795028689, UTC)
    assert (canceled.status, canceled.fulfilled_at) == ("closed", None)
    assert played.mail("payment-receipt").data["amount"] == {"amount": 6000, "currency": "eur"}


@case("101")
def a_dispute_is_prevented(played: Played) -> None:
    row = one_payment(played)
    assert (row.status, row.refunded_amount, row.on_hold) == ("refunded", 2000, False)


@case("103")
def a_lost_dispute_stays_lost(played: Played) -> None:
    assert one_payment(played).status == "lost"
    assert played.templates().count("dispute-lost") == 1
