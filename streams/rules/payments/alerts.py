"""The rules that alert the operator: failed payouts and early fraud warnings (behaviours.md C10)."""

from __future__ import annotations

from typing import Any

from schemas.effects import Effect, QueueEmail
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.stripe.early_fraud_warning import EarlyFraudWarning
from schemas.stripe.payout import StripePayout
from streams.rules.payments.stream import stream


def refer(event: Event[Any]) -> References:  # noqa: ARG001  # the rule reads no stored rows
    return References()


@stream.on("payout.failed", model=StripePayout, refer=refer)
def on_payout_failed(event: Event[StripePayout], known: Known) -> list[Effect]:
    payout = event.object
    lines = [
        f"Payout: {payout.id}",
        f"Amount: {payout.amount} {payout.currency.upper()}, in minor units",
        f"Reason: {payout.failure_message}" if payout.failure_message else None,
        f"Bank account or card: {payout.destination}" if payout.destination else None,
    ]
    return [_alert(event, known, f"payout-failed:{event.account}:{payout.id}", "A payout failed", lines, "payouts")]


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


def _alert(
    event: Event[Any],
    known: Known,
    key: str,
    title: str,
    lines: list[str | None],
    page: str,
    object_id: str | None = None,
) -> QueueEmail:
    """Returns a mail to the operator with a link to the object in Stripe's dashboard."""
    account = [f"Connected account: {event.account}"] if event.account else []
    path = [
        part for part in (event.account, "" if event.livemode else "test", page, object_id or event.object.id) if part
    ]
    return QueueEmail(
        key=key,
        template="operator-alert",
        account=event.account,
        customer_id=event.customer_id,
        recipient=known.config.mail.operator,
        data={
            "title": title,
            "lines": [line for line in lines if line is not None] + account,
            "link": f"https://dashboard.stripe.com/{'/'.join(path)}",
        },
    )
