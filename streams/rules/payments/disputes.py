"""The rules for `charge.dispute.*`: the row, the hold on its payment, and the operator's mails (behaviours.md C9).

These events do not wait for the payment, because the operator has only days to respond. If the payment is not known
yet, a timer sets the hold: the timer's event waits for the payment (behaviours.md D3).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.effects import CancelTimers, Effect, FinishTimer, NoteStale, QueueEmail, Save, StartTimer
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.references import References
from schemas.state import Dispute, Payment, TimerStatus
from schemas.stripe.dispute import CLOSED, UNDER_REVIEW, StripeDispute
from schemas.timer import TimerDue, timer_event_type
from schemas.version import Version, is_tie, version
from streams.rules import timers
from streams.rules.mails import iso, money
from streams.rules.payments.matching import find, link_payment_ids, of_payment, refs
from streams.rules.payments.stream import stream
from streams.rules.precedence import is_older, time_of
from streams.rules.ties import ask_stripe

DISPUTE_DUE, DISPUTE_LINK = "dispute-due", "dispute-link"
DUE_AFTER = timedelta(days=7)
"""The due date if Stripe names none, counted from the dispute's creation."""
REMIND_BEFORE = timedelta(days=2)

FUNDS_WITHDRAWN, FUNDS_REINSTATED = "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"

_OPEN = (TimerStatus.PENDING, TimerStatus.FIRED)

DisputeEvent = Event[StripeDispute]


def refer(event: DisputeEvent) -> References:
    dispute = event.object
    return References(
        payments=refs(event.account, dispute.charge, dispute.payment_intent),
        disputes={(event.account, dispute.id)},
        timers={_key(kind, event.account, dispute.id) for kind in (DISPUTE_DUE, DISPUTE_LINK)},
    )


@stream.on("charge.dispute.created", model=StripeDispute, refer=refer, rank=10)
def on_created(event: DisputeEvent, known: Known) -> list[Effect]:
    row, effects = _change(event, known)
    if row.closed_at is not None:
        return effects
    return [*effects, _notice(known, row, "dispute-opened")]


@stream.on(FUNDS_WITHDRAWN, model=StripeDispute, refer=refer, rank=30)
@stream.on(FUNDS_REINSTATED, model=StripeDispute, refer=refer, rank=31)
@stream.on("charge.dispute.updated", model=StripeDispute, refer=refer, rank=50)
@stream.on("charge.dispute.closed", model=StripeDispute, refer=refer, rank=90, terminal=True)
def on_changed(event: DisputeEvent, known: Known) -> list[Effect]:
    """A closed dispute stays closed, whatever comes later. The times of fund movements are still stored."""
    return _change(event, known)[1]


def refer_timer(event: Event[TimerDue]) -> References:
    references, data = timers.refer(event), event.object.data
    references.disputes.add((event.account, event.object.subject))
    references.payments |= refs(event.account, data.get("charge"), data.get("payment_intent"))
    references.timers.add(_key(DISPUTE_DUE, event.account, event.object.subject))
    return references


@stream.on(timer_event_type(DISPUTE_LINK), model=TimerDue, refer=refer_timer)
def on_link(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Sets the hold of a dispute that arrived before its payment. Raises NotKnownYet until the payment is known."""
    if not timers.is_due(event, known):
        return []
    done = FinishTimer(event.object.timer_key)
    row = known.dispute(event.account, event.object.subject)
    if row is None:
        return [done]

    def hold(payment: Payment) -> list[Effect]:
        after, effects = _with_payment(row, payment)
        saved: list[Effect] = [] if after == row else [Save(after)]
        return [*saved, *effects, *_remind(known, after), done]

    return of_payment(known, event.account, row.charge_id, row.payment_intent_id, row.currency, hold)


@stream.on(timer_event_type(DISPUTE_DUE), model=TimerDue, refer=refer_timer)
def on_due(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Reminds the operator, unless evidence was submitted or the due date had passed by the time of the last event."""
    if not timers.is_due(event, known):
        return []
    done = FinishTimer(event.object.timer_key)
    row = known.dispute(event.account, event.object.subject)
    if row is None or row.closed_at is not None or row.status in UNDER_REVIEW:
        return [done]
    if row.due_by is None or row.due_by <= time_of(row.version):
        return [done]
    return [done, _notice(known, row, "dispute-due")]


def _change(event: DisputeEvent, known: Known) -> tuple[Dispute, list[Effect]]:
    dispute = event.object
    before = known.dispute(event.account, dispute.id)
    row = _updated(before or Dispute(account=event.account, dispute_id=dispute.id), event)
    payment = find(known, event.account, row.charge_id, row.payment_intent_id)
    effects: list[Effect] = []
    if payment is not None:
        row, effects = _with_payment(row, payment)
    elif row.charge_id or row.payment_intent_id:
        effects = _link_later(known, row, event)
    if row != before:
        effects.insert(0, Save(row))
    effects += _remind(known, row)
    if before is not None and _version_of(event) < before.version:
        is_late = is_older(event.version, before.version)
        effects.append(NoteStale(f"{dispute.id} {'already has a newer version' if is_late else 'is closed'}"))
    if before is not None and is_tie(before.version, _version_of(event)) and not _has_same_content(before, dispute):
        effects.append(ask_stripe(event, f"/v1/disputes/{dispute.id}", dispute.id, row.customer_id))
    return row, effects


def _has_same_content(row: Dispute, dispute: StripeDispute) -> bool:
    is_same_date = dispute.due_by is None or dispute.due_by == row.due_by
    return is_same_date and all(getattr(row, name) == getattr(dispute, name) for name in ("amount", "reason", "status"))


def _version_of(event: DisputeEvent) -> Version:
    return version(event.created, event.rank, event.id, terminal=_closes(event))


def _closes(event: DisputeEvent) -> bool:
    return event.terminal or event.object.status in CLOSED


def _updated(row: Dispute, event: DisputeEvent) -> Dispute:
    dispute, new_version = event.object, _version_of(event)
    facts: dict[str, Any] = {}
    if new_version > row.version:
        facts = {
            "amount": dispute.amount,
            "currency": dispute.currency,
            "reason": dispute.reason,
            "status": dispute.status,
            "due_by": dispute.due_by or (dispute.created or event.at) + DUE_AFTER,
            "version": new_version,
        }
    if _closes(event):
        facts["closed_at"] = min(row.closed_at or event.at, event.at)
    if event.type == FUNDS_WITHDRAWN:
        facts["funds_withdrawn_at"] = max(row.funds_withdrawn_at or event.at, event.at)
    if event.type == FUNDS_REINSTATED:
        facts["funds_reinstated_at"] = max(row.funds_reinstated_at or event.at, event.at)
    return replace(
        row,
        charge_id=row.charge_id or dispute.charge,
        payment_intent_id=row.payment_intent_id or dispute.payment_intent,
        **facts,
    )


def _with_payment(row: Dispute, payment: Payment) -> tuple[Dispute, list[Effect]]:
    """Links the dispute to its payment; the payment is on hold while any of its disputes is open."""
    row = replace(row, payment_id=payment.payment_id, customer_id=payment.customer_id)
    disputes = {id_: status for id_, status in payment.open_disputes.items() if id_ != row.dispute_id}
    if row.closed_at is None:
        disputes[row.dispute_id] = row.status
    after = replace(link_payment_ids(payment, charge=row.charge_id), open_disputes=disputes, on_hold=bool(disputes))
    return row, [] if after == payment else [Save(after)]


def _link_later(known: Known, row: Dispute, event: DisputeEvent) -> list[Effect]:
    key = _key(DISPUTE_LINK, row.account, row.dispute_id)
    if known.timer(key) is not None:
        return []
    data = {"charge": row.charge_id, "payment_intent": row.payment_intent_id}
    return [_timer(row, DISPUTE_LINK, due_at=event.at, data=data)]


def _remind(known: Known, row: Dispute) -> list[Effect]:
    """Sets the reminder timer of an open dispute, moves it with the due date, and ends it with the dispute."""
    present = known.timer(_key(DISPUTE_DUE, row.account, row.dispute_id))
    is_open = present is not None and present.status in _OPEN
    if row.closed_at is not None or row.due_by is None:
        if present is None or not is_open:
            return []
        if not present.customer_id:
            return [FinishTimer(present.timer_key)]
        account, customer_id = present.account, present.customer_id
        return [CancelTimers(account=account, customer_id=customer_id, kinds=(DISPUTE_DUE,), subject=row.dispute_id)]
    timer = _timer(row, DISPUTE_DUE, due_at=row.due_by - REMIND_BEFORE, data={})
    if present is None or (is_open and (present.due_at, present.customer_id) != (timer.due_at, timer.customer_id)):
        return [timer]
    return []


def _timer(row: Dispute, kind: str, **more: Any) -> StartTimer:
    return StartTimer(
        key=_key(kind, row.account, row.dispute_id),
        account=row.account,
        customer_id=row.customer_id or "",
        kind=kind,
        subject=row.dispute_id,
        **more,
    )


def _key(kind: str, account: str, dispute_id: str) -> str:
    return f"{kind}:{account}:{dispute_id}"


def _notice(known: Known, row: Dispute, template: str) -> QueueEmail:
    return QueueEmail(
        key=f"{template}:{row.account}:{row.dispute_id}",
        template=template,
        account=row.account,
        customer_id=row.customer_id,
        recipient=known.config.mail.operator,
        data={
            "dispute_id": row.dispute_id,
            "amount": money(row.amount, row.currency),
            "reason": row.reason,
            "due_at": iso(row.due_by),
            "customer_id": row.customer_id,
            "payment_intent": row.payment_intent_id,
        },
    )
