"""Disputes of each outcome, and their deadlines (C9)."""

from __future__ import annotations

from local.stripe.builder import ApiShape
from tests.field.further.kit import ALONE, Life, Maker
from tests.kits.rulekit import DAY


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "a part of an open invoice is disputed and lost, the invoice stays owed",
            [
                m.failed(DAY, amount=2900, amount_paid=900, amount_remaining=2000, **ALONE),
                m.part(DAY, amount=900),
                m.charge(DAY, "succeeded", amount=900),
                m.dispute(
                    3 * DAY,
                    "created",
                    3 * DAY,
                    amount=900,
                ),
                m.dispute(
                    3 * DAY,
                    "funds_withdrawn",
                    3 * DAY,
                    amount=900,
                ),
                m.dispute(
                    9 * DAY,
                    "closed",
                    3 * DAY,
                    amount=900,
                    status="lost",
                ),
            ],
            {"in_1.status": "failed", "in_1.on_hold": False, "dp_1.status": "lost"},
            {"dispute-opened": 1, "dispute-lost": 1},
        ),
        Life(
            "dispute: inquiry, chargeback, won with funds back",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, status="warning_needs_response", due=9 * DAY),
                m.dispute(5 * DAY, "updated", 2 * DAY, status="needs_response", due=12 * DAY),
                m.dispute(5 * DAY, "funds_withdrawn", 2 * DAY, status="needs_response", due=12 * DAY),
                m.dispute(6 * DAY, "updated", 2 * DAY, status="under_review", due=12 * DAY),
                m.dispute(30 * DAY, "closed", 2 * DAY, status="won", due=12 * DAY),
                m.dispute(30 * DAY, "funds_reinstated", 2 * DAY, status="won", due=12 * DAY),
            ],
            {
                "in_1.status": "succeeded",
                "in_1.on_hold": False,
                "dp_1.status": "won",
                "dp_1.funds_reinstated_at": 30 * DAY,
                "dp_1.funds_withdrawn_at": 5 * DAY,
            },
            {"dispute-opened": 2, "dispute-lost": 0, "dispute-due": 0},
        ),
        Life(
            "dispute due date moved earlier: reminded of the earlier one, once",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, due=20 * DAY),
                m.dispute(3 * DAY, "updated", 2 * DAY, due=10 * DAY),
            ],
            {"in_1.on_hold": True, "dp_1.due_by": 10 * DAY},
            {"dispute-due": 1},
            fires=(),
        ),
        Life(
            "dispute due date moved later: reminded of the later one, once",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, due=10 * DAY),
                m.dispute(3 * DAY, "updated", 2 * DAY, due=20 * DAY),
            ],
            {"in_1.on_hold": True, "dp_1.due_by": 20 * DAY},
            {"dispute-due": 1},
            fires=(),
        ),
        Life(
            "dispute moved and moved back: reminded once",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, due=10 * DAY),
                m.dispute(3 * DAY, "updated", 2 * DAY, due=20 * DAY),
                m.dispute(4 * DAY, "updated", 2 * DAY, due=10 * DAY),
            ],
            {"in_1.on_hold": True, "dp_1.due_by": 10 * DAY},
            {"dispute-due": 1},
            fires=(),
        ),
        Life(
            "inquiry closed without a chargeback",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, status="warning_needs_response", due=9 * DAY),
                m.dispute(90 * DAY, "closed", 2 * DAY, status="warning_closed", due=9 * DAY),
            ],
            {"in_1.status": "succeeded", "in_1.on_hold": False},
            {"dispute-lost": 0, "dispute-opened": 1},
        ),
        Life(
            "two disputes of one payment: one won, one lost",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, amount=900),
                m.dispute(3 * DAY, "created", 3 * DAY, "dp_2", amount=2000),
                m.dispute(20 * DAY, "closed", 2 * DAY, amount=900, status="won"),
                m.dispute(21 * DAY, "closed", 3 * DAY, "dp_2", amount=2000, status="lost"),
            ],
            {"in_1.status": "lost", "in_1.on_hold": False},
            {"dispute-lost": 1, "dispute-opened": 2},
        ),
        Life(
            "lost dispute, then some funds reinstated: stays lost; refund before dispute",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.charge(2 * DAY, "refunded", refunded=900),
                m.dispute(3 * DAY, "created", 3 * DAY, amount=2000),
                m.dispute(9 * DAY, "closed", 3 * DAY, amount=2000, status="lost"),
                m.dispute(12 * DAY, "funds_reinstated", 3 * DAY, amount=2000, status="lost"),
            ],
            {"in_1.status": "lost", "in_1.refunded_amount": 900, "dp_1.status": "lost"},
        ),
        Life(
            "dispute names the charge only",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, payment_intent=None, status="lost"),
            ],
            {"in_1.status": "lost", "in_1.on_hold": False},
            {"dispute-lost": 1},
        ),
        Life(
            "lost at creation, then won back",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, status="lost"),
                m.dispute(2 * DAY, "closed", 2 * DAY, status="lost"),
                m.dispute(9 * DAY, "updated", 2 * DAY, status="won"),
                m.dispute(9 * DAY, "funds_reinstated", 2 * DAY, status="won"),
            ],
            {"in_1.status": "succeeded", "dp_1.status": "won"},
            {"dispute-lost": 1},
        ),
        Life(
            "funds withdrawn arrives with created in one second; closed the same day",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(
                    2 * DAY,
                    "created",
                    2 * DAY,
                ),
                m.dispute(
                    2 * DAY,
                    "funds_withdrawn",
                    2 * DAY,
                ),
                m.dispute(2 * DAY + 60, "closed", 2 * DAY, status="lost"),
            ],
            {"in_1.status": "lost"},
            {"dispute-lost": 1},
        ),
        Life(
            "a prevented dispute, and its refund",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.dispute(2 * DAY, "created", 2 * DAY, status="prevented"),
                m.refund(
                    2 * DAY,
                    "created",
                ),
                m.charge(2 * DAY, "refunded", refunded=2900),
            ],
            {"in_1.status": "refunded", "in_1.on_hold": False},
            {"dispute-lost": 0},
        ),
        Life(
            "two parts, one disputed and lost: the row is lost",
            [
                m.part(DAY, amount=900),
                m.part(2 * DAY, 2, amount=2000),
                m.paid(2 * DAY, **ALONE),
                m.charge(DAY, "succeeded", amount=900),
                m.charge(2 * DAY, "succeeded", "ch_2", payment_intent="pi_2", amount=2000),
                m.dispute(
                    5 * DAY,
                    "created",
                    5 * DAY,
                    charge="ch_2",
                    payment_intent="pi_2",
                    amount=2000,
                ),
                m.dispute(
                    9 * DAY,
                    "closed",
                    5 * DAY,
                    charge="ch_2",
                    payment_intent="pi_2",
                    amount=2000,
                    status="lost",
                ),
            ],
            {"in_1.status": "lost", "ch_1.invoice_id": "in_1", "pi_2.amount": 2900},
        ),
    ]
