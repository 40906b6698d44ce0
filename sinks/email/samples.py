"""Realistic sample data for each mail, used by the previews, by the check of own wordings and by the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INVOICE = {
    "number": "F3A1C2D4-0007",
    "hosted_url": "https://invoice.stripe.com/i/acct_1/live_YWNjdF8x?s=ap",
}
_UPDATE = "https://app.example.com/billing/update-payment"
_DUNNING = _INVOICE | {
    "name": "Jane Doe",
    "amount": {"amount": 4900, "currency": "eur"},
    "due_at": "2026-11-30T00:00:00Z",
    "update_url": _UPDATE,
    "reason": "Your card has insufficient funds.",
}
_DISPUTE = {
    "dispute_id": "dp_1PgafTB1bkmHoSYpIYvl2kQV",
    "amount": {"amount": 123_456, "currency": "usd"},
    "reason": "fraudulent",
    "due_at": "2026-12-06T23:59:59Z",
    "customer_id": "cus_QXg1o8vcGmoR32",
    "payment_intent": "pi_3PgafTB1bkmHoSYp1o5pSCZC",
    "connected_account": "acct_1PgafTB1bkmHoSYp",
    "link": "https://dashboard.stripe.com/acct_1PgafTB1bkmHoSYp/disputes/dp_1PgafTB1bkmHoSYpIYvl2kQV",
}

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "subscription-welcome": {
        "name": "Jane Doe",
        "plan": "Team",
        "interval": "month",
        "interval_count": 3,
        "price": {"amount": 14_700, "currency": "eur"},
        "trial_end": "2026-12-07T10:00:00Z",
        "organization": "Doe & Söhne GmbH",
    },
    "plan-changed": {
        "name": "Jane Doe",
        "plan": "Scale",
        "previous_plan": "Team",
        "price": {"amount": 118_800, "currency": "eur"},
        "previous_price": {"amount": 4_900, "currency": "eur"},
        "interval": "year",
        "previous_interval": "month",
        "quantity": 7,
        "previous_quantity": 5,
    },
    "subscription-canceled": {
        "name": "Jane Doe",
        "plan": "Team",
        "canceled_at": "2026-11-23T09:30:00Z",
        "access_until": "2026-11-30T00:00:00Z",
        "export_url": "https://app.example.com/exports/1f0c?signature=6f1e",
        "erase_at": "2026-12-23T09:30:00Z",
    },
    "trial-ending": {"name": "Jane Doe", "plan": "Team", "trial_end": "2026-11-26T10:00:00Z", "days_left": 3},
    "trial-reminder": {"name": "Jane Doe", "plan": "Team", "trial_end": "2026-11-30T10:00:00Z", "days_left": 7},
    "payment-receipt": _INVOICE
    | {
        "name": "Jane Doe",
        "amount": {"amount": 4900, "currency": "eur"},
        "paid_at": "2026-11-23T09:30:00Z",
        "pdf_url": "https://pay.stripe.com/invoice/acct_1/live_YWNjdF8x/pdf?s=ap",
        "plan": "Team",
    },
    "payment-failed": _DUNNING | {"attempt": 1, "next_attempt_at": "2026-11-26T09:30:00Z"},
    "payment-reminder": _DUNNING | {"attempt": 1, "next_attempt_at": "2026-11-28T09:30:00Z"},
    "payment-urgent": _DUNNING | {"attempt": 3, "next_attempt_at": "2026-12-01T09:30:00Z"},
    "payment-final": _DUNNING | {"attempt": 4, "next_attempt_at": None},
    "payment-action-required": _INVOICE | {"name": "Jane Doe", "amount": {"amount": 12_000, "currency": "jpy"}},
    "invoice-overdue": _INVOICE
    | {"name": "Jane Doe", "amount": {"amount": 90_000, "currency": "eur"}, "due_at": "2026-11-30T00:00:00Z"},
    "renewal-reminder": {
        "name": "Jane Doe",
        "amount": {"amount": 4900, "currency": "eur"},
        "renews_at": "2026-12-01T00:00:00Z",
        "plan": "Team",
    },
    "card-expiring": {
        "name": "Jane Doe",
        "brand": "visa",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2026,
        "update_url": _UPDATE,
        "days_left": 30,
    },
    "payment-method-detached": {"name": "Jane Doe", "brand": "mastercard", "last4": "4444", "update_url": _UPDATE},
    "churn-survey": {"name": "Jane Doe", "survey_url": "https://app.example.com/survey"},
    "win-back": {"name": "Jane Doe", "plan": "Team", "return_url": "https://app.example.com/welcome-back"},
    "operator-alert": {
        "title": "Payout po_1PgafTB1bkmHoSYp failed",
        "amount": {"amount": 123_456, "currency": "usd"},
        "lines": ["The bank account has been closed (account_closed)."],
        "link": "https://dashboard.stripe.com/payouts/po_1PgafTB1bkmHoSYp",
    },
    "dispute-opened": _DISPUTE,
    "dispute-due": _DISPUTE,
    "dispute-lost": _DISPUTE,
}
