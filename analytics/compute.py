"""Computes an owner's figures from their facts. Pure; the order of the facts does not matter.

facts ─▶ timeline ─▶ movements of MRR, periods at risk
   └───▶ recoveries of failed invoices, payments

A computation may start from a running state (running.py): then it needs only the later facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from analytics.invoices import payments, recoveries, totals
from analytics.running import LOST, Running
from analytics.timeline import EARNING, Moment, Standing, in_order, timeline
from schemas.figures import Fact, Figure, Movement, MovementKind, Owner, PaymentFigure, Risk, RiskOutcome, Usage
from schemas.settings import Config
from schemas.statuses import SubscriptionStatus as Status

ByPlan = Mapping[tuple[str, str], int]
"""MRR by (currency, plan)."""

BEGINNING = Running()
"""The state before an owner's first fact."""


def figures_of(facts: Iterable[Fact], config: Config) -> list[Figure]:
    """Returns all figures of one owner. `facts` must all belong to that owner, in any order. Duplicates count once."""
    ordered = in_order(facts)
    if not ordered:
        return []
    found = figures_since(BEGINNING, ordered, ordered, config)
    return [*found, *totals(row for row in found if isinstance(row, PaymentFigure))]


def figures_since(before: Running, tail: Sequence[Fact], touched: Sequence[Fact], config: Config) -> list[Figure]:
    """Returns the figures that the facts of `tail` may have changed, without totals.

    `tail` (at least one) are all facts of one owner later than `before`; `touched` are all facts, of any time, of the
    invoices, purchases and charges whose figures are wanted. Both must be in order (timeline.in_order).
    """
    owner, moments = tail[0].of, list(timeline(tail, config, before.standings, since=before.until))
    return [
        *movements(owner, moments, before),
        *risks(owner, moments, before),
        *recoveries(owner, touched, before.after(moments), config),
        *payments(owner, touched),
        *usage(owner, moments[-1].standings),
    ]


def movements(owner: Owner, moments: Sequence[Moment], start: Running) -> list[Movement]:
    """Returns the change of MRR in each second, by currency and plan. Changes of 0, before discounts too, are omitted.

    All subscriptions of the owner count together, separately for each currency. So a second subscription is an
    expansion, and a subscription that starts after all others ended is a reactivation. One that ends while it is
    paused changes no MRR, but is churn if it was the last.
    """
    found: list[Movement] = []
    standings = start.standings
    before, listed_before = _mrr(standings), _list_mrr(standings)
    earned = set(start.earned)
    for moment in moments:
        after, listed = _mrr(moment.standings), _list_mrr(moment.standings)
        lost = _paused_lost(standings, moment.standings)
        keys = before.keys() | after.keys() | listed_before.keys() | listed.keys() | lost.keys()
        for currency in sorted({currency for currency, _ in keys}):
            totals_ = _total(before, currency), _total(after, currency)
            kind = _kind(*totals_, has_earned=currency in earned)
            if _total(lost, currency) and totals_[0] == totals_[1]:
                has_left = not totals_[1] and not _is_paused(moment.standings, currency)
                kind = MovementKind.CHURN if has_left else MovementKind.CONTRACTION
            elif not any(totals_):  # nothing is paid, as with a discount of 100 %
                is_more = _total(listed, currency) >= _total(listed_before, currency)
                kind = MovementKind.EXPANSION if is_more else MovementKind.CONTRACTION
            elif (paused := _pause(standings, moment.standings, currency)) and currency in earned:
                kind = paused
            found += [
                Movement(
                    account=owner.account,
                    livemode=owner.livemode,
                    owner=owner.owner,
                    currency=currency,
                    at=moment.at,
                    plan=plan,
                    kind=kind,
                    amount=change,
                    list_amount=list_change,
                    paused_lost=lost_now,
                    day=moment.at.date(),
                )
                for plan in sorted({plan for at, plan in keys if at == currency})
                if any(
                    (
                        change := after.get((currency, plan), 0) - before.get((currency, plan), 0),
                        list_change := listed.get((currency, plan), 0) - listed_before.get((currency, plan), 0),
                        lost_now := lost.get((currency, plan), 0),
                    )
                )
            ]
        earned |= {currency for currency, _ in after}
        before, listed_before, standings = after, listed, moment.standings
    return found


def usage(owner: Owner, standings: Mapping[str, Standing]) -> list[Usage]:
    """Returns what the newest paid invoice of each earning subscription has billed by usage and by tiers."""
    return [
        Usage(
            account=owner.account,
            livemode=owner.livemode,
            owner=owner.owner,
            subscription_id=id_,
            currency=standing.currency,
            amount=billed[0],
            invoice_id=billed[1],
            at=datetime.fromtimestamp(billed[2], UTC),
        )
        for id_, standing in standings.items()
        if standing.status in EARNING and standing.currency and (billed := standing.said.get("billed"))
    ]


def risks(owner: Owner, moments: Sequence[Moment], start: Running) -> list[Risk]:
    """Returns each period in which a subscription was past due, and how it ended, if not before `start`.

    A pause neither recovers nor loses it: the period goes on.
    """
    found: list[Risk] = []
    ids = {id_: None for moment in moments for id_ in moment.standings}
    for subscription_id in ids:
        open_one: Risk | None = None
        if (since := start.at_risk.get(subscription_id)) is not None:
            standing = start.standings[subscription_id]
            open_one = _risk(owner, subscription_id, standing, RiskOutcome.OPEN, began_at=since)
        for moment in moments:
            standing = moment.standings.get(subscription_id, Standing())
            if standing.status is Status.PAST_DUE or (open_one is not None and standing.status is Status.PAUSED):
                began_at = open_one.began_at if open_one else moment.at
                open_one = _risk(owner, subscription_id, standing, RiskOutcome.OPEN, began_at=began_at)
            elif open_one is not None:
                found.append(_ended(open_one, standing, moment))
                open_one = None
        if open_one is not None:
            found.append(open_one)
    return found


def _risk(owner: Owner, subscription_id: str, standing: Standing, outcome: RiskOutcome, *, began_at: datetime) -> Risk:
    return Risk(
        account=owner.account,
        livemode=owner.livemode,
        owner=owner.owner,
        subscription_id=subscription_id,
        began_at=began_at,
        currency=standing.currency or "",
        mrr=sum(standing.rates.values()),
        outcome=outcome,
        ended_at=None,
    )


def _ended(risk: Risk, standing: Standing, moment: Moment) -> Risk:
    is_back = standing.status in (Status.ACTIVE, Status.TRIALING)
    outcome = RiskOutcome.RECOVERED if is_back else RiskOutcome.LOST
    return replace(risk, outcome=outcome, ended_at=moment.at)


def _mrr(standings: Mapping[str, Standing]) -> ByPlan:
    return _sums((standing.currency, standing.earns) for standing in standings.values())


def _list_mrr(standings: Mapping[str, Standing]) -> ByPlan:
    return _sums((standing.currency, standing.lists) for standing in standings.values())


def _paused_lost(before: Mapping[str, Standing], after: Mapping[str, Standing]) -> ByPlan:
    """Returns what the subscriptions that have ended while they were paused had earned before, as negative amounts."""
    ended = [was for id_, was in before.items() if was.status is Status.PAUSED and after[id_].status in LOST]
    return _sums(
        (was.currency, {plan: -amount for plan, amount in was.said.get("paused", {}).items()}) for was in ended
    )


def _is_paused(standings: Mapping[str, Standing], currency: str) -> bool:
    """Whether a subscription that has earned is paused, so that the customer may come back to it."""
    return any(
        one.status is Status.PAUSED and one.currency == currency and one.said.get("paused")
        for one in standings.values()
    )


def _sums(amounts: Iterable[tuple[str | None, Mapping[str, int]]]) -> ByPlan:
    found: dict[tuple[str, str], int] = defaultdict(int)
    for currency, by_plan in amounts:
        for plan, amount in by_plan.items():
            found[currency or "", plan] += amount
    return dict(found)


def _pause(before: Mapping[str, Standing], after: Mapping[str, Standing], currency: str) -> MovementKind | None:
    """Returns whether the larger part of a second's change is that subscriptions were paused, or resumed."""
    changes: dict[MovementKind | None, int] = defaultdict(int)
    for id_, now in after.items():
        was = before.get(id_, Standing())
        change = sum(sign * sum(one.earns.values()) for one, sign in ((now, 1), (was, -1)) if one.currency == currency)
        kind = MovementKind.PAUSE if now.status is Status.PAUSED else None
        changes[MovementKind.RESUME if was.status is Status.PAUSED else kind] += change
    largest = max(changes, key=lambda kind: abs(changes[kind]), default=None)
    return largest if largest is not None and changes[largest] else None


def _total(mrr: ByPlan, currency: str) -> int:
    return sum(amount for (at, _), amount in mrr.items() if at == currency)


def _kind(before: int, after: int, *, has_earned: bool) -> MovementKind:
    if before == 0:
        return MovementKind.REACTIVATION if has_earned else MovementKind.NEW
    if after == 0:
        return MovementKind.CHURN
    # A change to another plan at the same price moves MRR between plans: an expansion by 0 in total.
    return MovementKind.EXPANSION if after >= before else MovementKind.CONTRACTION
