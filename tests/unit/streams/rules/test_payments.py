"""Stream `payments`, money: behaviours.md C2's reasons, C8, C9 and C10."""

from __future__ import annotations

import itertools

import pytest

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, StripeEvents
from schemas.errors import MalformedEvent, NotKnownYet, RuleViolated
from schemas.payment_facts import given_back, joined
from schemas.state import Payment
from schemas.statuses import PaymentStatus, TimerStatus
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, RulesWorld, at, decide, read

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def paid(make: StripeEvents) -> list[Json]:
    """A paid invoice and the events that link it to its charge, in Stripe's usual order."""
    intent = pay.payment_intent(make, invoice=None, charge="ch_1")
    return [
        make.event("charge.succeeded", pay.charge(make), NOW),
        make.event("payment_intent.succeeded", intent, NOW),
        make.event("invoice_payment.paid", pay.invoice_payment(make), NOW),
        make.event("invoice.paid", make.invoice(status="paid", created=NOW), NOW),
    ]


def refunded(make: StripeEvents, total: int, when: int) -> Json:
    return make.event("charge.refunded", pay.charge(make, refunded=total), when)


def refund(make: StripeEvents, type_: str, when: int, id_: str, amount: int, status: str = "succeeded") -> Json:
    return make.event(type_, pay.refund(make, id_, amount=amount, status=status), when)


def dispute(make: StripeEvents, kind: str, when: int, status: str = "needs_response", **more: object) -> Json:
    given = {"due_by": NOW + 10 * DAY, "created": NOW} | more
    return make.event(f"charge.dispute.{kind}", pay.dispute(make, status=status, **given), when)  # type: ignore[arg-type]  # the builder's keywords


# -- C8 --------------------------------------------------------------------------------------------------------------


def test_C8_partial_refunds_are_summed_and_counted_once(make: StripeEvents) -> None:
    world = PatientWorld().apply(*paid(make))
    world.apply(refund(make, "refund.created", NOW + 1, "re_1", 900), refunded(make, 900, NOW + 1))
    assert (world.payment().status, world.payment().refunded_amount) == (PaymentStatus.REFUNDED, 900)
    world.apply(refunded(make, 1900, NOW + 2), refund(make, "refund.created", NOW + 2, "re_2", 1000))
    assert world.payment().refunded_amount == 1900
    assert world.payment().amount == 2900


def test_C8_refund_events_and_charge_events_give_the_same_sum(make: StripeEvents) -> None:
    parts = [refund(make, "refund.created", NOW + n, f"re_{n}", 100 * n) for n in (1, 2, 3)]
    sums = [refunded(make, total, NOW + n) for n, total in ((1, 100), (2, 300), (3, 600))]
    for events in (parts, sums, parts[::-1], sums[::-1]):
        assert PatientWorld().apply(*paid(make), *events).payment().refunded_amount == 600


def test_C8_a_failed_refund_lowers_the_refunded_amount(make: StripeEvents) -> None:
    """Stripe then lowers the charge's refunded amount without sending a charge event."""
    made = [refund(make, "refund.created", NOW + 1, "re_1", 2900, "pending"), refunded(make, 2900, NOW + 1)]
    lost = refund(make, "refund.failed", NOW + 9, "re_1", 2900, "failed")
    for events in ([*made, lost], [lost, *made], [made[1], lost]):
        row = PatientWorld().apply(*paid(make), *events).payment()
        assert (row.status, row.refunded_amount) == (PaymentStatus.SUCCEEDED, 0)


def test_C8_a_lost_refund_is_subtracted_as_of_its_loss_however_often_it_is_updated(make: StripeEvents) -> None:
    """The sum of day 2 is without the refund that failed on day 1, and the only source of the other refunds."""
    lost = refund(make, "refund.failed", NOW + DAY, "re_1", 500, "failed")
    later = [
        refund(make, "refund.updated", NOW + 3 * DAY, "re_1", 500, "failed"),
        refund(make, "charge.refund.updated", NOW + 4 * DAY, "re_1", 500, "canceled"),
    ]
    for events in itertools.permutations([lost, refunded(make, 1000, NOW + 2 * DAY), *later]):
        assert PatientWorld().apply(*paid(make), *events).payment().refunded_amount == 1000
    for events in itertools.permutations([refunded(make, 1000, NOW + DAY // 2), lost, *later]):
        assert PatientWorld().apply(*paid(make), *events).payment().refunded_amount == 500


def test_C8_payments_that_become_one_keep_when_a_refund_was_lost(make: StripeEvents) -> None:
    total = PatientWorld().apply(*paid(make), refunded(make, 1000, NOW + 2 * DAY)).payment()
    lost = [refund(make, "refund.failed", NOW + day * DAY, "re_1", 500, "failed") for day in (1, 3)]
    for rows in itertools.permutations([total, *(PatientWorld().apply(*paid(make), one).payment() for one in lost)]):
        assert given_back(joined(rows).refunds) == 1000


def test_C8_a_later_invoice_event_does_not_change_the_refund(make: StripeEvents) -> None:
    failed = make.event("invoice.payment_failed", make.invoice(), NOW - 9)
    link = make.event("invoice_payment.paid", pay.invoice_payment(make), NOW)
    back = refunded(make, 2900, NOW + 1)
    done = make.event("invoice.paid", make.invoice(status="paid"), NOW)
    world = PatientWorld().apply(back, link, failed, done)
    assert world.waiting == []
    assert (world.payment().status, world.payment().refunded_amount) == (PaymentStatus.REFUNDED, 2900)
    assert world.payment().failure_reason is None


def test_C8_a_refund_of_an_unknown_payment_waits(make: StripeEvents) -> None:
    with pytest.raises(NotKnownYet, match="pi_1 or ch_1"):
        decide(refund(make, "refund.updated", NOW, "re_1", 1))
    world = PatientWorld().apply(refund(make, "refund.updated", NOW, "re_1", 1))
    assert len(world.waiting) == 1
    assert world.apply(*paid(make)).waiting == []
    assert world.payment().refunded_amount == 1


def test_C8_a_refund_without_charge_and_intent_is_recorded(make: StripeEvents) -> None:
    cash = pay.refund(make, charge=None, payment_intent=None)
    assert decide(make.event("refund.created", cash, NOW)) == []


@pytest.mark.parametrize("intent", ["pi_1", None], ids=["by the API", "by hand"])
def test_C8_a_payment_without_invoice_or_checkout_is_refunded_too(make: StripeEvents, intent: str | None) -> None:
    """Such refunds wait up to the limit, since a link may still arrive. The result is the same in every order."""
    parts = [
        make.event("refund.created", pay.refund(make, id_, amount=amount, payment_intent=intent), NOW)
        for id_, amount in (("re_1", 900), ("re_2", 1000))
    ]
    charge = pay.charge(make, invoice=None, payment_intent=intent, refunded=1900)
    lost = pay.refund(make, "re_2", amount=1000, status="failed", payment_intent=intent)
    events = [*parts, make.event("charge.refunded", charge, NOW), make.event("refund.failed", lost, NOW + DAY)]
    worlds = [PatientWorld().apply(*order) for order in itertools.permutations(events)]
    assert {len(world.waiting) for world in worlds} == {4}
    ends = [world.give_up().state() for world in worlds]
    assert ends == ends[:1] * len(ends)
    row = worlds[0].payment("ch_1")
    assert (row.invoice_id, row.payment_intent_id, row.customer_id) == (None, intent, "cus_1")
    assert (row.status, row.amount, row.refunded_amount) == (PaymentStatus.REFUNDED, 2900, 900)


def test_C8_C14_a_refund_of_an_invoices_second_payment_counts_on_its_one_row(make: StripeEvents) -> None:
    make = StripeEvents(ApiShape.NEW, make.account)  # an invoice can have several payments since API version basil
    second = pay.invoice_payment(make, "inpay_2", payment_intent="pi_2", amount=900)
    back = pay.charge(make, "ch_2", invoice=None, payment_intent="pi_2", amount=900, refunded=900)
    world = PatientWorld().apply(*paid(make), make.event("invoice_payment.paid", second, NOW + 1))
    world.apply(make.event("charge.refunded", back, NOW + 2), refunded(make, 500, NOW + 3))
    assert (world.waiting, world.rows(Payment)) == ([], [world.payment("in_1")])
    assert world.payment("pi_2") == world.payment("ch_2") == world.payment("pi_1") == world.payment("in_1")
    assert (world.payment().amount, world.payment().refunded_amount) == (2900, 1400)
    assert set(world.known.payment_ids("", "in_1")) == {"in_1", "pi_1", "ch_1", "pi_2", "ch_2"}


def test_C8_amounts_are_integers_in_a_known_currency(make: StripeEvents) -> None:
    for broken in ({"amount": 9.5}, {"amount": "900"}, {"currency": "zzz"}, {"amount": True}):
        with pytest.raises(MalformedEvent):
            read(make.event("refund.created", pay.refund(make) | broken, NOW))
    other = make.event("refund.created", pay.refund(make, currency="jpy"), NOW + 1)
    with pytest.raises(RuleViolated, match="jpy"):
        RulesWorld().apply(*paid(make)[-1:], *paid(make)[2:3], other)


def test_C8_a_one_time_checkout_refund_is_matched_by_its_intent(make: StripeEvents) -> None:
    session = make.checkout_session(mode="payment", payment_intent="pi_1")
    bought = make.event("checkout.session.completed", session, NOW)
    world = RulesWorld().apply(bought, refund(make, "refund.created", NOW + 1, "re_1", 500))
    assert (world.payment("cs_test_1").status, world.payment("pi_1").refunded_amount) == (PaymentStatus.REFUNDED, 500)


# -- C9 --------------------------------------------------------------------------------------------------------------


def test_C9_a_dispute_holds_its_payment_and_alerts_the_operator(make: StripeEvents) -> None:
    world = PatientWorld().apply(*paid(make), dispute(make, "created", NOW))
    row = world.dispute()
    assert (row.payment_id, row.customer_id) == (world.payment().payment_id, "cus_1")
    assert (row.status, row.amount, row.currency, row.due_by) == ("needs_response", 2900, "eur", at(NOW + 10 * DAY))
    assert world.payment().on_hold is True
    mail = next(email for email in world.emails.values() if email.template == "dispute-opened")
    assert mail.recipient == CONFIG.mail.operator
    assert mail.data["due_at"] == at(NOW + 10 * DAY).isoformat()
    (timer,) = world.pending().values()
    assert (timer.kind, timer.due_at, timer.customer_id) == ("dispute-due", at(NOW + 8 * DAY), "cus_1")


def test_C9_without_a_due_date_it_is_seven_days_after_creation(make: StripeEvents) -> None:
    world = PatientWorld().apply(dispute(make, "created", NOW + 5, due_by=None))
    assert world.dispute().due_by == at(NOW + 7 * DAY)


def test_C9_the_reminder_is_sent_once_two_days_before(make: StripeEvents) -> None:
    world = PatientWorld().apply(*paid(make), dispute(make, "created", NOW)).fire().fire()
    assert [t for t in world.templates() if t.startswith("dispute")] == ["dispute-due", "dispute-opened"]
    assert world.apply(dispute(make, "updated", NOW + 9 * DAY)).pending() == {}


def test_C9_a_later_date_moves_the_reminder(make: StripeEvents) -> None:
    world = PatientWorld().apply(
        dispute(make, "created", NOW), dispute(make, "updated", NOW + 1, due_by=NOW + 20 * DAY)
    )
    timers = [timer.due_at for timer in world.pending().values() if timer.kind == "dispute-due"]
    assert timers == [at(NOW + 8 * DAY), at(NOW + 18 * DAY)]
    mails = world.fire().emails.values()
    assert [mail.data["due_at"] for mail in mails if mail.template == "dispute-due"] == [at(NOW + 20 * DAY).isoformat()]


def test_C9_submitted_evidence_needs_no_reminder(make: StripeEvents) -> None:
    world = PatientWorld().apply(
        *paid(make), dispute(make, "created", NOW), dispute(make, "updated", NOW + 1, "under_review")
    )
    assert "dispute-due" not in world.fire().templates()
    assert world.payment().on_hold is True


@pytest.mark.parametrize("outcome", ["won", "lost", "warning_closed"])
def test_C9_a_closed_dispute_clears_the_hold_and_the_timer(make: StripeEvents, outcome: str) -> None:
    world = PatientWorld().apply(
        *paid(make), dispute(make, "created", NOW), dispute(make, "closed", NOW + DAY, outcome)
    )
    assert world.payment().on_hold is False
    assert (world.dispute().status, world.dispute().closed_at) == (outcome, at(NOW + DAY))
    assert world.pending() == {}
    (timer,) = (timer for timer in world.rows_of_timers() if timer.kind == "dispute-due")
    assert timer.status is TimerStatus.CANCELLED


def test_C9_closed_before_created_holds_nothing_and_sends_no_mail(make: StripeEvents) -> None:
    world = PatientWorld().apply(*paid(make), dispute(make, "closed", NOW + DAY, "won"), dispute(make, "created", NOW))
    assert world.payment().on_hold is False
    assert [t for t in world.fire().templates() if t.startswith("dispute")] == []


def test_C9_another_open_dispute_keeps_the_hold(make: StripeEvents) -> None:
    second = make.event("charge.dispute.created", pay.dispute(make, "dp_2", due_by=NOW + 9 * DAY), NOW + 1)
    world = PatientWorld().apply(
        *paid(make), dispute(make, "created", NOW), second, dispute(make, "closed", NOW + 2, "won")
    )
    assert (world.payment().on_hold, set(world.payment().open_disputes)) == (True, {"dp_2"})


def test_C9_the_operator_is_alerted_before_the_payment_is_known(make: StripeEvents) -> None:
    """The hold is set later: the event of its timer waits for the payment."""
    world = PatientWorld().apply(dispute(make, "created", NOW)).fire(*AT_ONCE)
    assert world.templates() == ["dispute-opened"]
    assert len(world.waiting) == 1
    world.apply(*paid(make))
    assert world.waiting == []
    assert world.payment().on_hold is True
    assert world.dispute().customer_id == "cus_1"


def test_C9_a_dispute_without_invoice_or_checkout_holds_its_payment_at_the_limit(make: StripeEvents) -> None:
    world = PatientWorld().apply(dispute(make, "created", NOW)).fire(*AT_ONCE).give_up()
    assert world.waiting == []
    row = world.payment("ch_1")
    assert (row.status, row.on_hold, row.currency) == (PaymentStatus.SUCCEEDED, True, "eur")
    assert world.dispute().payment_id == row.payment_id
    world.apply(dispute(make, "closed", NOW + 9 * DAY, "won"))
    assert world.payment("ch_1").on_hold is False


def test_C9_funds_withdrawn_and_reinstated_are_recorded(make: StripeEvents) -> None:
    world = PatientWorld().apply(
        dispute(make, "created", NOW),
        dispute(make, "funds_withdrawn", NOW + 1),
        dispute(make, "closed", NOW + DAY, "won"),
        dispute(make, "funds_reinstated", NOW + 2 * DAY, "won"),
    )
    row = world.dispute()
    assert (row.funds_withdrawn_at, row.funds_reinstated_at) == (at(NOW + 1), at(NOW + 2 * DAY))
    assert row.closed_at == at(NOW + DAY)


def test_C9_two_updates_in_one_second_refetch_from_stripe(make: StripeEvents) -> None:
    both = [dispute(make, "updated", NOW, status) for status in ("needs_response", "under_review")]
    world = PatientWorld().apply(*both)
    assert [call.path for call in world.calls.values()] == ["/v1/disputes/dp_1"]


# -- C2, C10 ---------------------------------------------------------------------------------------------------------


def test_C10_a_failed_intent_gives_the_invoice_its_reason(make: StripeEvents) -> None:
    """This also works in the new shape, where the invoice's own event has no reason, in either order."""
    why = make.event("payment_intent.payment_failed", pay.payment_intent(make, failure="Insufficient funds."), NOW)
    failed = make.event("invoice.payment_failed", make.invoice(), NOW)
    for events in ([why, failed], [failed, why]):
        row = RulesWorld().apply(*events).payment()
        assert (row.status, row.failure_reason) == (PaymentStatus.FAILED, "Insufficient funds.")


def test_C10_the_newest_reason_is_kept_until_the_invoice_is_paid(make: StripeEvents) -> None:
    first, second = (
        make.event("payment_intent.payment_failed", pay.payment_intent(make, failure=why), NOW + n)
        for n, why in enumerate(["Expired.", "Stolen."])
    )
    world = RulesWorld().apply(second, first)
    assert world.payment().failure_reason == "Stolen."
    world.apply(make.event("invoice.paid", make.invoice(status="paid"), NOW + 9), first)
    assert world.payment().failure_reason is None


def test_C10_an_intent_without_a_known_payment_is_only_recorded(make: StripeEvents) -> None:
    loose = pay.payment_intent(make, invoice=None, failure="No.")
    assert decide(make.event("payment_intent.payment_failed", loose, NOW)) == []
    world = RulesWorld().apply(make.event("payment_intent.succeeded", loose, NOW))
    assert world.rows(Payment) == []


def test_C10_a_failed_charge_is_not_linked_as_the_paying_charge(make: StripeEvents) -> None:
    """Only the old shape names the invoice."""
    make = StripeEvents(ApiShape.OLD, make.account)
    failed = make.event("charge.failed", pay.charge(make, "ch_0", failure="Declined."), NOW)
    row = RulesWorld().apply(failed).payment()
    assert (row.failure_reason, row.charge_id, row.payment_intent_id) == ("Declined.", None, "pi_1")
    done = make.event("charge.succeeded", pay.charge(make, "ch_1"), NOW + 1)
    assert RulesWorld().apply(failed, done).payment().charge_id == "ch_1"


def test_C10_a_failed_payout_alerts_the_operator_once(make: StripeEvents) -> None:
    events = [make.event("payout.failed", pay.payout(make), NOW + n) for n in (0, 1)]
    (mail,) = RulesWorld().apply(*events).emails.values()
    assert (mail.template, mail.recipient, mail.customer_id) == ("operator-alert", CONFIG.mail.operator, None)
    assert "Reason: The bank account has been closed." in mail.data["lines"]
    assert mail.data["link"] == "https://dashboard.stripe.com/test/payouts/po_1"


def test_C10_an_early_fraud_warning_alerts_the_operator_once(make: StripeEvents) -> None:
    there = StripeEvents(make.shape, account="acct_9", livemode=True)
    event = there.event("radar.early_fraud_warning.created", pay.early_fraud_warning(there), NOW)
    (mail,) = RulesWorld().apply(event, event).emails.values()
    assert (mail.template, mail.account) == ("operator-alert", "acct_9")
    assert "Connected account: acct_9" in mail.data["lines"]
    assert mail.data["link"] == "https://dashboard.stripe.com/acct_9/payments/ch_1"
