"""The receipt of a one-time purchase (behaviours.md B2). The rules of invoices send the receipts of invoices (C1)."""

from __future__ import annotations

from typing import Any

from schemas.effects import QueueEmail
from schemas.event import Event
from schemas.known import Known
from schemas.state import Payment
from streams.rules.mails import iso, money


def receipt(known: Known, event: Event[Any], row: Payment, *, name: str | None, to: str | None) -> list[QueueEmail]:
    """Returns the receipt of a purchase that was paid just now: one per session, none for 0.

    A purchase with an invoice has the invoice's receipt. A guest without an address gets none.
    """
    if row.amount <= 0 or row.invoice_id is not None or (row.customer_id is None and to is None):
        return []
    customer = known.customer(row.account, row.customer_id) if row.customer_id else None
    return [
        QueueEmail(
            key=f"receipt:{row.account}:{row.checkout_session_id}",
            template="payment-receipt",
            account=row.account,
            customer_id=row.customer_id,
            recipient=to,
            locale=customer.locale if customer else None,
            data={
                "name": name or (customer.name if customer else None),
                "amount": money(row.amount, row.currency),
                "paid_at": iso(row.paid_at or event.at),
            },
        )
    ]
