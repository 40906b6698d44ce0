"""Computes payment figures, and the outcome of each invoice whose payment failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from analytics.imported import is_imported
from analytics.running import Running
from schemas.figures import Fact, FactKind, Owner, PaymentFigure, PaymentKind, PaymentTotal, Recovery, RiskOutcome
from schemas.settings import Config, DunningStep
from schemas.stripe.invoice import SEND_INVOICE, StripeInvoice
from streams.rules.invoices.dunning import step_of


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """An invoice as one event contains it, and the time of that event (UTC)."""

    at: datetime
    invoice: StripeInvoice


@dataclass(slots=True)
class InvoiceHistory:
    """All states of one invoice by kind of event, earliest first."""

    failed: list[InvoiceState] = field(default_factory=list)
    paid: list[InvoiceState] = field(default_factory=list)
    given_up: list[InvoiceState] = field(default_factory=list)

    @property
    def paid_at(self) -> datetime | None:
        """When it was paid according to Stripe, else the time of the first event of its payment. None if unpaid."""
        return (self.paid[0].invoice.paid_at or self.paid[0].at) if self.paid else None


def recoveries(owner: Owner, facts: Sequence[Fact], running: Running, config: Config) -> list[Recovery]:
    """Returns one row for each invoice with a failed payment. `facts` must be in order (timeline.in_order).

    `running` is the owner's present state; it knows when a subscription was lost.
    """
    return [
        _recovery(owner, invoice_id, history, running, config.rules.dunning)
        for invoice_id, history in _by_invoice(facts).items()
        if history.failed
    ]


def payments(owner: Owner, facts: Sequence[Fact]) -> list[PaymentFigure]:
    """Returns the figures of invoices, one-time purchases and refunds. `facts` must be in order (timeline.in_order)."""
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

    by_invoice = _by_invoice(facts)
    for invoice_id, history in by_invoice.items():
        if history.paid_at is not None:
            invoice = history.paid[-1].invoice
            if invoice.paid_amount:
                add(PaymentKind.INVOICE, invoice_id, history.paid_at, invoice.currency, invoice.paid_amount)
        elif history.failed:
            newest = history.failed[-1]
            add(PaymentKind.FAILED, invoice_id, newest.at, newest.invoice.currency, newest.invoice.amount_due)
    purchases = {fact.subject: fact for fact in reversed(facts) if fact.kind is FactKind.PURCHASE}
    invoiced = {fact.subject for fact in facts if fact.kind is FactKind.PURCHASE and _is_counted(fact, by_invoice)}
    pending = {fact.subject for fact in facts if fact.kind is FactKind.PURCHASE and fact.data.get("is_pending")}
    captured = {fact.subject: fact for fact in reversed(facts) if fact.data.get("is_captured")}
    for first in purchases.values():  # the first fact of each: the event type that comes later repeats the purchase
        fact = captured.get(first.subject, first)
        is_open = (fact.subject in pending) != (fact.subject in captured)  # not captured, or of no checkout
        if fact.subject in invoiced or is_open:
            continue
        add(PaymentKind.PURCHASE, fact.subject, fact.created, fact.data["currency"], fact.data["amount"])
    refunded: dict[str, dict[datetime, Fact]] = defaultdict(dict)
    for fact in _taken_back(facts):
        add(PaymentKind.REFUND, fact.subject, fact.created, fact.data["currency"], -fact.data["amount"])
    for fact in facts:
        if fact.kind is FactKind.REFUND and not _is_one_refund(fact):
            # `amount_refunded` is cumulative: within one second the largest is the newest.
            seconds = refunded[fact.subject]
            known = seconds.get(fact.created)
            seconds[fact.created] = fact if known is None or fact.data["amount"] > known.data["amount"] else known
    for charge_id, by_second in refunded.items():
        so_far = 0
        for at, fact in by_second.items():
            # A failed refund, which has a fact of its own, lowers the charge's sum, and no event of the charge says so.
            before = fact.data.get("before")
            so_far = so_far if before is None else min(so_far, before)
            if fact.data["amount"] > so_far:
                add(PaymentKind.REFUND, charge_id, at, fact.data["currency"], fact.data["amount"] - so_far)
                so_far = fact.data["amount"]
    return found


def totals(figures: Iterable[PaymentFigure]) -> list[PaymentTotal]:
    """Returns the sums of one owner's payment figures, one row for each currency."""
    by_currency: dict[str, list[PaymentFigure]] = defaultdict(list)
    for figure in figures:
        by_currency[figure.currency].append(figure)
    return [_total(currency, rows) for currency, rows in sorted(by_currency.items())]


def _total(currency: str, rows: Sequence[PaymentFigure]) -> PaymentTotal:
    amounts: dict[PaymentKind, list[int]] = defaultdict(list)
    for row in rows:
        amounts[row.kind].append(row.amount)
    paid = amounts[PaymentKind.INVOICE] + amounts[PaymentKind.PURCHASE]
    return PaymentTotal(
        account=rows[0].account,
        livemode=rows[0].livemode,
        owner=rows[0].owner,
        currency=currency,
        payments=len(paid),
        amount=sum(paid),
        unpaid=len(amounts[PaymentKind.FAILED]),
        unpaid_amount=sum(amounts[PaymentKind.FAILED]),
        refunded=sum(amounts[PaymentKind.REFUND]),
    )


def changed_totals(
    stored: Iterable[PaymentTotal], before: Iterable[PaymentFigure], after: Iterable[PaymentFigure]
) -> list[PaymentTotal] | None:
    """Returns one owner's totals if the figures in `before` are replaced by those in `after`.

    Returns None if a total may have lost its last figure; then all figures have to be added up.
    """
    known = {total.currency: total for total in stored}
    less, more = ({row.currency: row for row in totals(rows)} for rows in (before, after))
    for currency in less.keys() | more.keys():
        parts = [(known.get(currency), 1), (less.get(currency), -1), (more.get(currency), 1)]
        sums = {name: sum(sign * getattr(row, name) for row, sign in parts if row is not None) for name in _SUMS}
        if not sums["payments"] and not sums["unpaid"]:
            return None
        known[currency] = replace(next(row for row, _ in parts if row is not None), **sums)
    return list(known.values())


_SUMS = ("payments", "amount", "unpaid", "unpaid_amount", "refunded")


def _is_counted(purchase: Fact, by_invoice: Mapping[str, InvoiceHistory]) -> bool:
    """Whether the purchase has an invoice that is counted as paid."""
    invoice = by_invoice.get(purchase.data.get("invoice") or "")
    return invoice is not None and invoice.paid_at is not None


def _taken_back(facts: Sequence[Fact]) -> list[Fact]:
    """Returns the first report of the failure of each refund that its charge's sum had counted.

    The sum had not if the refund's very first report is of an import, and says that it has failed: the sum that was
    imported is without it, and whatever is reported later is no news.
    """
    reports: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.kind is FactKind.REFUND and _is_one_refund(fact):
            reports[fact.subject].append(fact)
    found = []
    for first, *later in reports.values():
        if first.data["is_failed"] and is_imported(first):
            continue
        found += [fact for fact in (first, *later) if fact.data["is_failed"]][:1]
    return found


def _is_one_refund(fact: Fact) -> bool:
    """Whether the fact is about one refund, and not about the sum of a charge."""
    return "is_failed" in fact.data


def _by_invoice(facts: Sequence[Fact]) -> dict[str, InvoiceHistory]:
    found: dict[str, InvoiceHistory] = defaultdict(InvoiceHistory)
    for fact in facts:
        if fact.kind in (FactKind.INVOICE_PAID, FactKind.INVOICE_FAILED, FactKind.INVOICE_GIVEN_UP):
            history = found[fact.subject]
            states = {
                FactKind.INVOICE_PAID: history.paid,
                FactKind.INVOICE_FAILED: history.failed,
                FactKind.INVOICE_GIVEN_UP: history.given_up,
            }
            states[fact.kind].append(InvoiceState(fact.created, StripeInvoice.model_validate(fact.data)))
    return found


def _recovery(
    owner: Owner, invoice_id: str, history: InvoiceHistory, running: Running, steps: tuple[DunningStep, ...]
) -> Recovery:
    first, newest = history.failed[0], history.failed[-1]
    outcome, ended_at = RiskOutcome.OPEN, _lost_at(history, running)
    if history.paid_at is not None:
        # An invoice that credit notes settled is closed without a payment.
        is_paid = history.paid[-1].invoice.paid_amount > 0
        outcome = RiskOutcome.RECOVERED if is_paid else RiskOutcome.LOST
        ended_at = max(history.paid_at, first.at)
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
        attempts=max(1, *(state.invoice.attempt_count for state in history.failed)),
        first_failed_at=first.at,
        step=_step(history, steps, ended_at),
        outcome=outcome,
        ended_at=ended_at,
        seconds=int((ended_at - first.at).total_seconds()) if ended_at else None,
    )


def _lost_at(history: InvoiceHistory, running: Running) -> datetime | None:
    """Returns when the invoice was given up, or None: by hand, by Stripe's last attempt, or with its subscription."""
    first, newest = history.failed[0], history.failed[-1]
    ends = [state.at for state in history.given_up]
    if newest.invoice.next_payment_attempt is None and newest.invoice.collection_method != SEND_INVOICE:
        ends.append(newest.at)
    if (lost_at := running.lost_at(newest.invoice.subscription or "", first.at)) is not None:
        ends.append(lost_at)
    return max(min(ends), first.at) if ends else None


def _step(history: InvoiceHistory, steps: tuple[DunningStep, ...], ended_at: datetime | None) -> str:
    """Returns the template of the last dunning step reached before the end; '' if no step was reached."""
    reached = [(state.at, step.template) for state in history.failed if (step := step_of(steps, state.invoice))]
    if ended_at is not None:
        reached += [
            (due_at, step.template)
            for step in steps
            if step.after_days is not None
            and (due_at := history.failed[0].at + timedelta(days=step.after_days)) <= ended_at
        ]
    return max(reached, key=lambda step: step[0])[1] if reached else ""
