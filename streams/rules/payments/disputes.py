"""The rules for `charge.dispute.*`: the row, the hold on its payment, and the operator's mails (behaviours.md C9).

These events do not wait for the payment, because the operator has only days to respond. If the payment is not known
yet, a timer sets the hold: the timer's event waits for the payment (behaviours.md D3).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.effects import CancelTimers, Effect, FinishTimer, NoteStale, QueueEmail, Save, StartTimer
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.payment_facts import derived
from schemas.references import References
from schemas.state import Dispute, Payment, Timer
from schemas.statuses import LinkKind
from schemas.stripe.dispute import CLOSED, INQUIRY, LOST, UNDER_REVIEW, StripeDispute
from schemas.timer import TimerDue, timer_event_type
from schemas.version import Version, version
from streams.rules import same_second, timers
from streams.rules.mails import iso
from streams.rules.payments.alerts import dashboard_link
from streams.rules.payments.matching import Match, match, named, of_payment, refs
from streams.rules.payments.stream import stream
from streams.rules.precedence import is_older, time_of
from streams.rules.ties import ask_stripe

DISPUTE_DUE, DISPUTE_LINK = "dispute-due", "dispute-link"
DUE_AFTER = timedelta(days=7)
"""The due date if Stripe names none, counted from the dispute's creation."""
REMIND_BEFORE = timedelta(days=2)

FUNDS_WITHDRAWN, FUNDS_REINSTATED = "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"


_FACTS = ("amount", "currency", "reason", "status", "due_by")

DisputeEvent = Event[StripeDispute]


def refer(event: DisputeEvent) -> References:
    dispute = event.object
    return References(
        payments=refs(event.account, _ids(dispute.charge, dispute.payment_intent)),
        disputes={(event.account, dispute.id)},
        timers={_link_key(event.account, dispute.id), _due_key(event.account, dispute.id, _deadline(event))},
        timers_of={(DISPUTE_DUE, dispute.id)},
    )


@stream.on("charge.dispute.created", model=StripeDispute, refer=refer, rank=10)
@stream.on(FUNDS_WITHDRAWN, model=StripeDispute, refer=refer, rank=30)
@stream.on(FUNDS_REINSTATED, model=StripeDispute, refer=refer, rank=31)
@stream.on("charge.dispute.updated", model=StripeDispute, refer=refer, rank=50)
@stream.on("charge.dispute.closed", model=StripeDispute, refer=refer, rank=90, terminal=True)
def on_changed(event: DisputeEvent, known: Known) -> list[Effect]:
    """Stores the dispute and its payment's hold or loss, and tells the operator of each deadline and of a loss.

    A closed dispute stays closed, whatever comes later. The times of fund movements are still stored.
    """
    dispute, new_version = event.object, _version_of(event)
    before = known.dispute(event.account, dispute.id)
    row = _updated(before or Dispute(account=event.account, dispute_id=dispute.id), event)
    effects: list[Effect] = []
    _check_same_payment(row, dispute)
    ids = _ids(dispute.charge, dispute.payment_intent)
    found = match(known, event.account, ids) if ids else None
    if found is not None and found.row is not None:
        row, effects = _with_payment(row, found, found.row)
    elif found is not None:
        effects = _link_later(known, row, event)
    if row != before:
        effects.append(Save(row))
    effects += _remind(before, row, known.timer(_due_key(event.account, dispute.id, _deadline(event))))
    if row.version == new_version:
        effects += _mails(known, event, before, row)
    if before is not None and new_version < before.version:
        is_late = is_older(event.version, before.version)
        effects.append(NoteStale(f"{dispute.id} {'already has a newer version' if is_late else 'is closed'}"))
    if before is not None and row.newest != before.newest and same_second.is_undecided(row.newest.get("tied", ())):
        effects.append(ask_stripe(event, f"/v1/disputes/{dispute.id}", dispute.id, row.customer_id))
    return effects


def refer_timer(event: Event[TimerDue]) -> References:
    references, data = timers.refer(event), event.object.data
    references.disputes.add((event.account, event.object.subject))
    references.timers_of.add((DISPUTE_DUE, event.object.subject))
    references.payments |= refs(event.account, _ids(data.get("charge"), data.get("payment_intent")))
    return references


@stream.on(timer_event_type(DISPUTE_LINK), model=TimerDue, refer=refer_timer)
def on_link(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Sets the hold of a dispute that arrived before its payment. Raises NotKnownYet until the payment is known."""
    if not timers.is_due(event, known):
        return []
    done, data = FinishTimer(event.object.timer_key), event.object.data
    before = known.dispute(event.account, event.object.subject)
    if before is None:
        return [done]
    found = match(known, event.account, _ids(data.get("charge"), data.get("payment_intent")))

    def hold(payment: Payment) -> list[Effect]:
        row, effects = _with_payment(before, found, payment)
        saved: list[Effect] = [] if row == before else [Save(row)]
        return [*effects, *saved, *_remind(before, row, None), done]

    return of_payment(found, before.currency, hold)


@stream.on(timer_event_type(DISPUTE_DUE), model=TimerDue, refer=refer_timer)
def on_due(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Reminds the operator, unless the dispute has another deadline, or evidence was submitted or came too late."""
    if not timers.is_due(event, known):
        return []
    done = FinishTimer(event.object.timer_key)
    row = known.dispute(event.account, event.object.subject)
    if row is None or row.closed_at is not None or row.status in UNDER_REVIEW:
        return [done]
    if row.due_by is None or row.due_by <= time_of(row.version):
        return [done]
    deadline = event.object.data.get("due_by")  # none in timers that are older than r0013
    if deadline is not None and deadline != iso(row.due_by):
        return [done]
    return [done, _notice(known, event, row, "dispute-due", str(_seconds(row.due_by)))]


def _version_of(event: DisputeEvent) -> Version:
    return version(event.created, event.rank, event.id, terminal=_closes(event))


def _closes(event: DisputeEvent) -> bool:
    return event.terminal or event.object.status in CLOSED


def _updated(row: Dispute, event: DisputeEvent) -> Dispute:
    dispute, new_version = event.object, _version_of(event)
    facts: dict[str, Any] = {}
    new = {"version": new_version, "previous": _previous(event), "facts": _shown(event)}
    stored = {name: getattr(row, name) for name in _FACTS} | {"due_by": _seconds_or_none(row.due_by)}
    if (found := same_second.settled(row.newest, row.version, stored, new)) is not None:
        latest, newest = found
        due_by = latest["facts"]["due_by"]
        facts = {
            **latest["facts"],
            "due_by": datetime.fromtimestamp(due_by, UTC) if due_by is not None else None,
            "version": Version(latest["version"]),
            "newest": newest,
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


def _shown(event: DisputeEvent) -> dict[str, Any]:
    dispute = event.object
    due_by = dispute.due_by if _closes(event) else _deadline(event)
    return {name: getattr(dispute, name) for name in _FACTS} | {"due_by": _seconds_or_none(due_by)}


def _previous(event: DisputeEvent) -> dict[str, Any]:
    """What the update replaced, under the names of columns."""
    previous = {name: event.previous[name] for name in ("amount", "reason", "status") if name in event.previous}
    evidence = event.previous.get("evidence_details")
    if isinstance(evidence, Mapping) and evidence.get("due_by"):
        previous["due_by"] = evidence["due_by"]
    return previous


def _check_same_payment(row: Dispute, dispute: StripeDispute) -> None:
    """Raises RuleViolated if the event names another payment than earlier events of the dispute, or none."""
    pairs = ((row.charge_id, dispute.charge), (row.payment_intent_id, dispute.payment_intent))
    if any(now is not None and now != before for before, now in pairs):
        raise RuleViolated(f"{dispute.id} is about another charge or intent than before")
    if all(now is None for _, now in pairs) and any(before is not None for before, _ in pairs):
        raise RuleViolated(f"{dispute.id} names no charge and no intent, and did so before")


def _with_payment(row: Dispute, found: Match, payment: Payment) -> tuple[Dispute, list[Effect]]:
    """Links the dispute to its payment, which is on hold while any of its disputes is open, and lost with one."""
    row = replace(row, payment_id=payment.payment_id, customer_id=payment.customer_id)
    return row, found.save(derived(replace(payment, disputes={**payment.disputes, row.dispute_id: row.status})))


def _link_later(known: Known, row: Dispute, event: DisputeEvent) -> list[Effect]:
    key = _link_key(row.account, row.dispute_id)
    if known.timer(key) is not None:
        return []
    data = {"charge": row.charge_id, "payment_intent": row.payment_intent_id}
    return [_timer(row, DISPUTE_LINK, key, due_at=event.at, data=data)]


def _remind(before: Dispute | None, row: Dispute, present: Timer | None) -> list[Effect]:
    """Starts a reminder of each deadline of an open dispute, and ends them with it.

    The reminder of a deadline that was moved stays, and finds that it is not the dispute's any more.
    """
    if row.closed_at is not None or row.due_by is None:
        effects: list[Effect] = []
        if row.customer_id is not None and before is not None and before.closed_at is None:
            account, kinds = row.account, (DISPUTE_DUE,)
            effects = [CancelTimers(account=account, customer_id=row.customer_id, kinds=kinds, subject=row.dispute_id)]
        if present is not None and present.is_open and present.customer_id != row.customer_id:
            effects.append(FinishTimer(present.timer_key))  # from before the payment, and so the customer, was known
        return effects
    if before is not None and (before.due_by, before.customer_id) == (row.due_by, row.customer_id):
        return []
    key = _due_key(row.account, row.dispute_id, row.due_by)
    data = {"due_by": iso(row.due_by)}
    return [_timer(row, DISPUTE_DUE, key, due_at=row.due_by - REMIND_BEFORE, data=data)]


def _mails(known: Known, event: DisputeEvent, before: Dispute | None, row: Dispute) -> list[Effect]:
    """The operator's mails: of a dispute, of each new deadline, of an inquiry that became a chargeback, of a loss."""
    if row.closed_at is not None:
        is_known = before is not None and before.status == LOST
        return [_notice(known, event, row, "dispute-lost")] if row.status == LOST and not is_known else []
    is_inquiry = row.status.startswith(INQUIRY)
    if before is None or before.status == "":
        return [_notice(known, event, row, "dispute-opened", change="inquiry" if is_inquiry else None)]
    has_escalated = before.status.startswith(INQUIRY) and not is_inquiry
    if row.status in UNDER_REVIEW or (before.due_by == row.due_by and not has_escalated):
        return []
    change = "escalated" if has_escalated else "deadline"
    return [_notice(known, event, row, "dispute-opened", change, str(_seconds(_deadline(event))), change=change)]


def _timer(row: Dispute, kind: str, key: str, **more: Any) -> StartTimer:
    return StartTimer(
        key=key,
        account=row.account,
        customer_id=row.customer_id or "",
        kind=kind,
        subject=row.dispute_id,
        **more,
    )


def _link_key(account: str, dispute_id: str) -> str:
    return f"{DISPUTE_LINK}:{account}:{dispute_id}"


def _due_key(account: str, dispute_id: str, due_by: datetime) -> str:
    """The key of the reminder of one deadline."""
    return f"{DISPUTE_DUE}:{account}:{dispute_id}:{_seconds(due_by)}"


def _deadline(event: DisputeEvent) -> datetime:
    dispute = event.object
    return dispute.due_by or (dispute.created or event.at) + DUE_AFTER


def _ids(charge: str | None, payment_intent: str | None) -> dict[str, LinkKind]:
    return named(intents=(payment_intent,), charges=(charge,))


def _seconds_or_none(moment: datetime | None) -> int | None:
    return _seconds(moment) if moment is not None else None


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _notice(
    known: Known, event: Event[Any], row: Dispute, template: str, *more: str, change: str | None = None
) -> QueueEmail:
    """Returns a mail to the operator. `more` makes the key of a mail that a dispute can have several of unique."""
    return QueueEmail(
        key=":".join((template, row.account, row.dispute_id, *more)),
        template=template,
        account=row.account,
        customer_id=row.customer_id,
        recipient=known.config.mail.operator,
        data={
            "dispute_id": row.dispute_id,
            "amount": {"amount": row.amount, "currency": row.currency},
            "reason": row.reason,
            "due_at": iso(row.due_by),
            "customer_id": row.customer_id,
            "payment_intent": row.payment_intent_id,
            "connected_account": row.account or None,
            "change": change,
            "link": dashboard_link(event, "disputes", row.dispute_id),
        },
    )
