"""Derives a customer's access from their subscriptions (behaviours.md B7, B8): plan, reason, and when it changes next.

`active` and `trialing` give access, and so does `past_due` for a grace time from when it began. The config can add
`unpaid` and `paused`. Of several subscriptions that give access, the one with the largest plan counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any

from schemas.fast_row import value
from schemas.settings import FREE_PLAN, Config
from schemas.state import Customer, Subscription
from schemas.statuses import SubscriptionStatus
from streams.rules.subscriptions.status_history import past_due_since

CUSTOMER_DELETED = "customer_deleted"
COLLECTION_PAUSED = "collection_paused"
"""Reason of an active subscription whose invoices are not collected."""
GRACE_ENDED = "grace_ended"
"""Reason of a subscription that has been past due for longer than the grace time."""

_GIVES = frozenset({SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING, SubscriptionStatus.PAST_DUE})

BEST_FIRST = (
    SubscriptionStatus.ACTIVE,
    SubscriptionStatus.TRIALING,
    SubscriptionStatus.PAST_DUE,
    SubscriptionStatus.UNPAID,
    SubscriptionStatus.PAUSED,
    SubscriptionStatus.INCOMPLETE,
    SubscriptionStatus.CANCELED,
    SubscriptionStatus.INCOMPLETE_EXPIRED,
)
RANK = {status: at for at, status in enumerate(BEST_FIRST)}


@value(frozen=True, slots=True, kw_only=True)
class Access:
    """What a customer may use. `until` is the end of a grace time; from then on, `after` applies.

    If several subscriptions are past due, `after` has a list `then`: what applies from the end of each later one.
    """

    plan: str | None
    limits: Mapping[str, int]
    has_access: bool
    reason: str
    """The status of the subscription that counts, or one of the constants of this module."""
    changes_at: datetime | None = None
    until: datetime | None = None
    after: Mapping[str, Any] = field(default_factory=dict)


def derive_access(config: Config, customer: Customer, subscriptions: Sequence[Subscription]) -> Access:
    """Returns the access of a customer with at least one subscription."""
    if customer.deleted_at is not None:
        return _none(config, CUSTOMER_DELETED)
    access = last = _derived(config, subscriptions, ended=None)
    steps: list[tuple[datetime, Access]] = []
    for end in sorted({end for row in subscriptions if (end := grace_end(row, config)) is not None}):
        after = _derived(config, subscriptions, ended=end)
        if _facts(after) != _facts(last):
            steps.append((end, after))
            last = after
    if not steps:
        return access
    (until, after), *later = steps
    then = [{"until": end.isoformat(), **_json(one)} for end, one in later]
    return Access(**_facts(access), until=until, after={**_json(after), **({"then": then} if then else {})})


def gives_access(row: Subscription, config: Config) -> bool:
    """Whether the subscription gives access, at least for its grace time."""
    return row.status in _GIVES or row.status in config.access.also


def grace_end(row: Subscription, config: Config) -> datetime | None:
    """When a subscription that is past due stops giving access; None if it is not past due or the time is unknown.

    Also None if the config gives access to `unpaid`, which is what follows.
    """
    if row.status is not SubscriptionStatus.PAST_DUE or SubscriptionStatus.UNPAID in config.access.also:
        return None
    since = past_due_since(row) or row.current_period_start
    return since + timedelta(days=config.access.past_due_grace_days) if since is not None else None


def renews_at(row: Subscription) -> datetime | None:
    """The end of the period after which the subscription renews; None if it is not going to (behaviours.md B9)."""
    if row.status not in _GIVES or ends_with_period(row) or row.pause_collection is not None:
        return None
    return row.current_period_end


def ends_with_period(row: Subscription) -> bool:
    """Whether the subscription is set to end at the end of its period, or before."""
    if row.cancel_at is None:
        return row.cancel_at_period_end
    return row.cancel_at_period_end or row.current_period_end is None or row.cancel_at <= row.current_period_end


def _derived(config: Config, subscriptions: Sequence[Subscription], *, ended: datetime | None) -> Access:
    """The access at a time; `ended` None means now, before the end of every grace time."""

    def is_over(row: Subscription) -> bool:
        end = grace_end(row, config)
        return ended is not None and end is not None and end <= ended

    giving = [row for row in subscriptions if gives_access(row, config) and not is_over(row)]
    if giving:
        row = max(giving, key=lambda row: (config.size_of_plan(row.plan), -RANK[row.status], row.subscription_id))
        reason = COLLECTION_PAUSED if row.pause_collection is not None else str(row.status)
        return Access(
            plan=row.plan,
            limits=config.limits_of_plan(row.plan),
            has_access=True,
            reason=reason,
            changes_at=_changes_at(row, config),
        )
    best = min(subscriptions, key=lambda row: (RANK[row.status], row.subscription_id))
    return _none(config, GRACE_ENDED if best.status in _GIVES else str(best.status))


def _changes_at(row: Subscription, config: Config) -> datetime | None:
    scheduled = row.cancel_at or (row.current_period_end if row.cancel_at_period_end else None)
    trial = row.trial_end if row.status is SubscriptionStatus.TRIALING else None
    times = (scheduled, trial, row.resumes_at, grace_end(row, config))
    return min((time for time in times if time is not None), default=None)


def _none(config: Config, reason: str) -> Access:
    return Access(plan=FREE_PLAN, limits=config.limits_of_plan(FREE_PLAN), has_access=False, reason=reason)


def _facts(access: Access) -> dict[str, Any]:
    names = ("plan", "limits", "has_access", "reason", "changes_at")
    return {name: getattr(access, name) for name in names}


def _json(access: Access) -> dict[str, Any]:
    facts = _facts(access)
    return facts | {"changes_at": access.changes_at.isoformat() if access.changes_at is not None else None}
