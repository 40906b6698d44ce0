"""Decides an event and applies its effects to the rows in memory: the next event of the batch is decided on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

from schemas.changes import Before
from schemas.effects import (
    Announce,
    CancelTimers,
    Effect,
    Erase,
    FinishTimer,
    Note,
    NoteStale,
    Order,
    QueueEmail,
    Remove,
    Save,
    StartTimer,
)
from schemas.errors import NotKnownYet, RuleViolated
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.plugin import PluginRule
from schemas.reach import Reach
from schemas.references import References
from schemas.state import Row, Timer
from schemas.statuses import TimerStatus
from schemas.timer import LINKING_TIMERS
from streams.erased import without_personal_data
from streams.rules.registry import Rule


@dataclass(slots=True)
class EventOutcome:
    """The effects of one event other than rows and timers: entries to queue, an erasure, the reason if stale."""

    orders: list[Order] = field(default_factory=list)
    """Rows to queue in the outboxes."""
    erase: Erase | None = None
    stale: str | None = None
    remark: str | None = None
    customer_id: str | None = None
    """The customer id of the first saved row or queued order that has one. The event may not name its customer."""
    announced: list[Announce] = field(default_factory=list)
    """Notifications of plugins, not addressed yet."""
    written: list[tuple[Row | None, Row | None]] = field(default_factory=list)
    """Each row that the event wrote, before and after (schemas/changes.py)."""


def decide(rule: Rule, event: Event[Any], known: Known, references: References) -> list[Effect]:
    """Returns the rule's effects. `references` is what its `refer` returned for the event.

    Raises NotReferred if the rule reads or saves any other row, and NotKnownYet.
    """
    reach = Reach(references, known)
    known.limit_to(reach)
    try:
        effects = rule.decide(event, known)
    except NotKnownYet as error:
        _check(error.at_last or (), reach)
        raise
    finally:
        known.limit_to(None)
    _check(effects, reach)
    return effects


def decide_more(more: Iterable[tuple[PluginRule, Event[Any]]], known: Known) -> list[Effect]:
    """Returns the effects of the rules of plugins, which see the rows as they were before the event.

    Raises NotReferred as `decide`, and RuleViolated for an effect that a plugin may not order, or if it raises
    NotKnownYet: only the project's rule decides whether an event waits.
    """
    found: list[Effect] = []
    for rule, event in more:
        reach = Reach(rule.references(event), known)
        known.limit_to(reach)
        try:
            effects = rule.decide(event, known)
        except NotKnownYet as error:
            raise RuleViolated(f"plugin {rule.plugin}: a rule may not wait: {error}") from error
        finally:
            known.limit_to(None)
        rule.check(effects)
        _check(effects, reach)
        _check_customers(effects, reach)
        found += effects
    return found


def _check(effects: Iterable[Effect], reach: Reach) -> None:
    """Checks the rows that effects write: what is stored of them must be loaded."""
    for effect in effects:
        match effect:
            case Save(row) | Remove(row):
                reach.row(row)
            case StartTimer():
                reach.started(effect.key, (effect.account, effect.customer_id), effect.kind, effect.subject)
            case CancelTimers():
                for kind in effect.kinds:
                    reach.timers((effect.account, effect.customer_id), kind, effect.subject)
            case FinishTimer(key):
                reach.timer(key)
            case _:
                pass


def _check_customers(effects: Iterable[Effect], reach: Reach) -> None:
    """Checks the customers that a plugin's effects are about: whether they are erased must be known."""
    for effect in effects:
        if isinstance(effect, QueueEmail | StartTimer | Announce) and effect.customer_id:
            reach.customer((effect.account, effect.customer_id), f"a {type(effect).__name__} of")


def apply(
    effects: Iterable[Effect], event: Event[Any], known: Known, *, taken_over_at: datetime | None = None
) -> EventOutcome:
    """Writes the effects' rows and timers into `known`; returns the other effects.

    `taken_over_at` is set for an imported object: timers that were due by then are stored as cancelled, so that no
    later event starts them either.
    """
    outcome, rows = EventOutcome(), Before(known)
    for ordered in effects:
        effect = without_personal_data(ordered, known)
        if isinstance(effect, Order):
            outcome.orders.append(effect)
            outcome.customer_id = outcome.customer_id or effect.customer_id
            continue
        match effect:
            case Save(row):
                rows.save(row)
                outcome.customer_id = outcome.customer_id or getattr(row, "customer_id", None)
            case Remove(row):
                rows.remove(row)
            case Erase():
                outcome.erase = effect
            case StartTimer():
                _start(effect, event, known, rows, taken_over_at)
            case CancelTimers():
                _cancel(effect, known, rows)
            case FinishTimer(key):
                _finish(key, known, rows)
            case NoteStale(reason):
                outcome.stale = reason
            case Announce():
                outcome.announced.append(effect)
            case Note(remark):
                outcome.remark = "; ".join(filter(None, (outcome.remark, remark)))
            case _:
                assert_never(effect)
    outcome.written = rows.pairs()
    return outcome


def _start(effect: StartTimer, event: Event[Any], known: Known, rows: Before, taken_over_at: datetime | None) -> None:
    present = known.timer(effect.key)
    is_past = taken_over_at is not None and effect.due_at <= taken_over_at and effect.kind not in LINKING_TIMERS
    if is_past and present is not None:
        return
    if present is not None and not present.is_open:
        return
    if present is not None and present.status is TimerStatus.FIRED and present.due_at == effect.due_at:
        return  # its event is on the log already, and the timer must not fire twice for one due time
    rows.save(
        Timer(
            timer_key=effect.key,
            account=effect.account,
            customer_id=effect.customer_id,
            kind=effect.kind,
            subject=effect.subject,
            due_at=effect.due_at,
            status=TimerStatus.CANCELLED if is_past else TimerStatus.PENDING,
            livemode=event.livemode,
            data=effect.data,
            event_id=event.id,
        )
    )


def _cancel(effect: CancelTimers, known: Known, rows: Before) -> None:
    for kind in effect.kinds:
        for timer in known.timers_of(effect.account, effect.customer_id, kind, effect.subject):
            rows.save(replace(timer, status=TimerStatus.CANCELLED))


def _finish(key: str, known: Known, rows: Before) -> None:
    timer = known.timer(key)
    if timer is not None and timer.is_open:
        rows.save(replace(timer, status=TimerStatus.DONE))
