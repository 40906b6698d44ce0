"""Inside the figures: what was paid, refunded or failed, and what became of each invoice that failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analytics.timeline import Moment
from schemas.figures import Fact, FactKind, Owner, PaymentFigure, PaymentKind, Recovery, RiskOutcome
from schemas.settings import Config, DunningStep
from schemas.state import SubscriptionStatus as Status
from schemas.stripe.invoice import SEND_INVOICE, StripeInvoice
from streams.rules.invoices.dunning import step_of
from streams.rules.subscription_row import ENDED

_LOST = ENDED | {Status.UNPAID}


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """What one event said of an invoice."""

    at: datetime
    invoice: StripeInvoice


@dataclass(slots=True)
class InvoiceHistory:
    """Everything said of one invoice, earliest first."""

    failed: list[InvoiceState] = field(default_factory=list)
    paid: list[InvoiceState] = field(default_factory=list)
    given_up: list[InvoiceState] = field(default_factory=list)

    @property
    def paid_at(self) -> datetime | None:
        """When Stripe says that it was paid, else when the first event said so."""
        return (self.paid[0].invoice.paid_at or self.paid[0].at) if self.paid else None


def recoveries(owner: Owner, facts: Sequence[Fact], moments: Sequence[Moment], config: Config) -> list[Recovery]:
    """One for each invoice whose payment ever failed. `facts` in order."""
    return [
        _recovery(owner, invoice_id, told, moments, config.rules.dunning)
        for invoice_id, told in _by_invoice(facts).items()
        if told.failed
    ]


def payments(owner: Owner, facts: Sequence[Fact]) -> list[PaymentFigure]:
    """Invoices, one-time purchases and refunds. `facts` in order."""
    found: list[PaymentFigure] = []

    def add(kind: PaymentKind, subject: str, at: datetime, currency: str, amount: int) -> None:
        found.append(
            PaymentFigure(
                account=owner.account,
                livemode=owner.livemode,
                owner=owner.owner,
                subject=subject,
                at=at,
                kind=kind,
                currency=currency,
                amount=amount,
                day=at.date(),
            )
        )

    for invoice_id, told in _by_invoice(facts).items():
        if told.paid_at is not None:
            invoice = told.paid[-1].invoice
            if invoice.paid_amount:
                add(PaymentKind.INVOICE, invoice_id, told.paid_at, invoice.currency, invoice.paid_amount)
        elif told.failed:
            word = told.failed[-1]
            add(PaymentKind.FAILED, invoice_id, word.at, word.invoice.currency, word.invoice.amount_due)
    purchases = {fact.subject: fact for fact in reversed(facts) if fact.kind is FactKind.PURCHASE}
    for fact in purchases.values():  # the first that said so: the later type repeats it
        add(PaymentKind.PURCHASE, fact.subject, fact.created, fact.data["currency"], fact.data["amount"])
    refunded: dict[str, dict[datetime, Fact]] = defaultdict(dict)
    for fact in facts:
        if fact.kind is FactKind.REFUND:
            seconds = refunded[fact.subject]
            known = seconds.get(fact.created)
            seconds[fact.created] = fact if known is None or fact.data["amount"] > known.data["amount"] else known
    for charge_id, by_second in refunded.items():
        so_far = 0
        for at, fact in by_second.items():
            if fact.data["amount"] > so_far:
                add(PaymentKind.REFUND, charge_id, at, fact.data["currency"], fact.data["amount"] - so_far)
                so_far = fact.data["amount"]
    return found


def _by_invoice(facts: Sequence[Fact]) -> dict[str, InvoiceHistory]:
    found: dict[str, InvoiceHistory] = defaultdict(InvoiceHistory)
    for fact in facts:
        if fact.kind in (FactKind.INVOICE_PAID, FactKind.INVOICE_FAILED, FactKind.INVOICE_GIVEN_UP):
            told, word = found[fact.subject], InvoiceState(fact.created, StripeInvoice.model_validate(fact.data))
            words = {
                FactKind.INVOICE_PAID: told.paid,
                FactKind.INVOICE_FAILED: told.failed,
                FactKind.INVOICE_GIVEN_UP: told.given_up,
            }
            words[fact.kind].append(word)
    return found


def _recovery(
    owner: Owner, invoice_id: str, told: InvoiceHistory, moments: Sequence[Moment], steps: tuple[DunningStep, ...]
) -> Recovery:
    first, newest = told.failed[0], told.failed[-1]
    outcome, ended_at = RiskOutcome.OPEN, _lost_at(told, moments)
    if told.paid_at is not None:
        outcome, ended_at = RiskOutcome.RECOVERED, max(told.paid_at, first.at)
    elif ended_at is not None:
        outcome = RiskOutcome.LOST
    return Recovery(
        account=owner.account,
        livemode=owner.livemode,
        owner=owner.owner,
        invoice_id=invoice_id,
        subscription_id=newest.invoice.subscription,
        currency=newest.invoice.currency,
        amount=newest.invoice.amount_due,
        attempts=max(1, *(word.invoice.attempt_count for word in told.failed)),
        first_failed_at=first.at,
        step=_step(told, steps, ended_at),
        outcome=outcome,
        ended_at=ended_at,
        seconds=int((ended_at - first.at).total_seconds()) if ended_at else None,
    )


def _lost_at(told: InvoiceHistory, moments: Sequence[Moment]) -> datetime | None:
    """When it was given up: by hand, by Stripe after its last attempt, or with its subscription."""
    first, newest = told.failed[0], told.failed[-1]
    ends = [word.at for word in told.given_up]
    if newest.invoice.next_payment_attempt is None and newest.invoice.collection_method != SEND_INVOICE:
        ends.append(newest.at)
    subscription_id = newest.invoice.subscription or ""
    for moment in moments:
        standing = moment.standings.get(subscription_id)
        if moment.at >= first.at and standing is not None and standing.status in _LOST:
            ends.append(moment.at)
            break
    return max(min(ends), first.at) if ends else None


def _step(told: InvoiceHistory, steps: tuple[DunningStep, ...], ended_at: datetime | None) -> str:
    """The newest step of the dunning sequence when it ended; '' where no step is for it."""
    reached = [(word.at, step.template) for word in told.failed if (step := step_of(steps, word.invoice))]
    if ended_at is not None:
        reached += [
            (due_at, step.template)
            for step in steps
            if step.after_days is not None
            and (due_at := told.failed[0].at + timedelta(days=step.after_days)) <= ended_at
        ]
    return max(reached, key=lambda step: step[0])[1] if reached else ""
