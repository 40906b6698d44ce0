"""What the newest subscription object says about an invoice whose own events are missing (behaviours.md C1, C3)."""

from __future__ import annotations

from schemas.state import Subscription
from schemas.statuses import SubscriptionStatus
from schemas.version import is_tie


def has_recovered_from(row: Subscription, invoice_id: str) -> bool:
    """Whether the subscription was unpaid because of this invoice, its latest, and is active with the same one.

    Stripe makes it active again only if that invoice is paid, voided or written off. So nothing is asked for any more,
    also if the event that says so was lost.
    """
    unpaid = row.newest.get("unpaid", {})
    failed: str = row.invoices.get(invoice_id, {}).get("failed", "")
    if not row.latest_invoice == invoice_id == unpaid.get("invoice") or failed >= row.version:
        return False
    # Of two events of one second the row shows the later one, whatever their ids.
    was_before = unpaid["version"] < row.version or is_tie(unpaid["version"], row.version)
    return row.stripe_status is SubscriptionStatus.ACTIVE and was_before
