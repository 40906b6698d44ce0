"""Stream `accounts`: behaviours.md C12."""

from __future__ import annotations

import pytest

from local.stripe import payments as pay
from local.stripe.builder import StripeEvents
from schemas.errors import RuleViolated
from streams.rules.catalog import stream_of
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import NOW, decide

CONNECTED = StripeEvents(account="acct_9")


def test_C12_an_account_update_is_recorded() -> None:
    assert stream_of("account.updated") == "accounts"
    assert decide(CONNECTED.event("account.updated", pay.account(CONNECTED), NOW)) == []
    assert decide(StripeEvents().event("account.updated", pay.account(StripeEvents()), NOW)) == []


def test_C12_an_account_update_for_another_account_violates_a_rule() -> None:
    with pytest.raises(RuleViolated, match="acct_8"):
        decide(CONNECTED.event("account.updated", pay.account(StripeEvents(account="acct_8")), NOW))


def test_C12_a_deauthorized_account_is_named_in_the_envelope() -> None:
    application = {"id": "ca_1", "object": "application", "name": "Us"}
    assert decide(CONNECTED.event("account.application.deauthorized", application, NOW)) == []
    with pytest.raises(RuleViolated, match="no account"):
        decide(StripeEvents().event("account.application.deauthorized", application, NOW))


@pytest.mark.parametrize("shape", ["OLD", "NEW"])
def test_C12_equal_ids_in_two_accounts_are_separate_payments(shape: str) -> None:
    """Payment, dispute and refund of one account do not change those of the other."""
    here = StripeEvents(StripeEvents().shape.__class__[shape])
    there = StripeEvents(here.shape, account="acct_9")
    world = PatientWorld()
    for make in (here, there):
        world.apply(make.event("invoice.paid", make.invoice(status="paid"), NOW))
        world.apply(make.event("invoice_payment.paid", pay.invoice_payment(make), NOW))
    world.apply(there.event("charge.refunded", pay.charge(there, refunded=100), NOW + 1))
    world.apply(there.event("charge.dispute.created", pay.dispute(there, due_by=NOW + 9), NOW + 1)).fire(*AT_ONCE)
    mine, theirs = world.payment(), world.payment(account="acct_9")
    assert mine.payment_id != theirs.payment_id
    assert (mine.refunded_amount, mine.on_hold) == (0, False)
    assert (theirs.refunded_amount, theirs.on_hold) == (100, True)
    assert world.known.dispute("", "dp_1") is None
    assert world.dispute(account="acct_9").customer_id == "cus_1"
