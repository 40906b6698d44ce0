"""The rules that alert the operator: failed payouts, fraud warnings, invoices that can't be finalized (C10)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from schemas.effects import Effect, QueueEmail
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.stripe.early_fraud_warning import EarlyFraudWarning
from schemas.stripe.payout import StripePayout
from schemas.stripe.unfinalized_invoice import UnfinalizedInvoice
from streams.rules.mails import money
from streams.rules.payments.stream import stream


def refer(event: Event[Any]) -> References:  # noqa: ARG001  # the rule reads no stored rows
    return References()


@stream.on("payout.failed", model=StripePayout, refer=refer)
def on_payout_failed(event: Event[StripePayout], known: Known) -> list[Effect]:
    payout = event.object
    lines = [
        f"Payout: {payout.id}",
        f"Amount: {payout.stated_amount}, in minor units" if payout.stated_amount else None,
        f"Reason: {payout.failure_message}" if payout.failure_message else None,
        f"Bank account or card: {payout.destination}" if payout.destination else None,
    ]
    key = f"payout-failed:{event.account}:{payout.id}"
    amount = None if payout.amount is None or payout.currency is None else money(payout.amount, payout.currency)
    return [_alert(event, known, key, "A payout failed", lines, "payouts", amount=amount)]


@stream.on("radar.early_fraud_warning.created", model=EarlyFraudWarning, refer=refer)
def on_early_fraud_warning(event: Event[EarlyFraudWarning], known: Known) -> list[Effect]:
    """Most warnings become disputes; a refund in time saves the dispute fee."""
    warning = event.object
    lines = [
        f"Charge: {warning.charge}",
        f"Payment intent: {warning.payment_intent}" if warning.payment_intent else None,
        f"Type of fraud: {warning.fraud_type}" if warning.fraud_type else None,
        "It can still be refunded before it is disputed" if warning.actionable else None,
    ]
    key = f"fraud-warning:{event.account}:{warning.id}"
    return [_alert(event, known, key, "A card issuer warns of fraud", lines, "payments", warning.charge)]


@stream.on("invoice.finalization_failed", model=UnfinalizedInvoice, refer=refer)
def on_finalization_failed(event: Event[UnfinalizedInvoice], known: Known) -> list[Effect]:
    """The customer cannot be billed until the cause is corrected, for example a missing address for the tax."""
    invoice = event.object
    lines = [
        f"Invoice: {invoice.id}",
        f"Customer: {event.customer_id}" if event.customer_id else None,
        f"Reason: {invoice.reason}" if invoice.reason else None,
    ]
    # An invoice can fail again for another reason after the first one was corrected.
    key = f"finalization-failed:{event.account}:{invoice.id}:{invoice.code or ''}"
    return [_alert(event, known, key, "An invoice could not be finalized", lines, "invoices")]


def dashboard_link(event: Event[Any], page: str, object_id: str) -> str:
    """Returns the link to an object in Stripe's dashboard, in the event's account and mode."""
    path = (event.account, "" if event.livemode else "test", page, object_id)
    return f"https://dashboard.stripe.com/{'/'.join(quote(part, safe='') for part in path if part)}"


def _alert(
    event: Event[Any],
    known: Known,
    key: str,
    title: str,
    lines: list[str | None],
    page: str,
    object_id: str | None = None,
    amount: dict[str, Any] | None = None,
) -> QueueEmail:
    """Returns a mail to the operator with a link to the object in Stripe's dashboard."""
    account = [f"Connected account: {event.account}"] if event.account else []
    return QueueEmail(
        key=key,
        template="operator-alert",
        account=event.account,
        customer_id=event.customer_id,
        recipient=known.config.mail.operator,
        data={
            "title": title,
            "lines": [line for line in lines if line is not None] + account,
            "amount": amount,
            "link": dashboard_link(event, page, object_id or event.object.id),
        },
    )
