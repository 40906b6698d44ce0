"""Keeps what earlier events said of a subscription's unpaid time, in any order of arrival (behaviours.md B8, C3).

In the column `newest`, beside what orders the events of its second (same_second.py):

    past_due    `since`: the versions of the events that show it past due, after the last event that does not (`other`)
    unpaid      the newest event that shows it past due or unpaid: its version, and the latest `invoice` at that time
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.event import Event
from schemas.state import Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription
from schemas.version import UNSEEN, Version, version
from streams.rules.precedence import time_of
from streams.rules.subscriptions import invoice_facts

MOST = 8
"""Maximum number of versions in `since`: the oldest ones."""

_UNPAID = frozenset({SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID})


def with_event(
    row: Subscription, event: Event[StripeSubscription], status: SubscriptionStatus, new_version: Version
) -> dict[str, Any]:
    """Returns both entries after an event with this status; {} if there are none."""
    unpaid: Mapping[str, Any] = row.newest.get("unpaid", {})
    if status in _UNPAID and new_version > unpaid.get("version", UNSEEN):
        unpaid = {"version": new_version, "invoice": event.object.latest_invoice}
    past_due = _past_due(row, event, status, new_version)
    return ({"unpaid": unpaid} if unpaid else {}) | ({"past_due": past_due} if past_due["since"] else {})


def past_due_since(row: Subscription) -> datetime | None:
    """Returns when the subscription became past due (UTC): its latest invoice failed, or Stripe changed its status.

    If no event shows the change, it is when its payments began to fail; None if that is not known either.
    """
    seen = row.newest.get("past_due", {})
    if row.stripe_status is SubscriptionStatus.PAST_DUE and seen.get("other"):
        since = time_of(Version(seen["since"][0]))
        failed = invoice_facts.latest_failed_at(row)
        return since if failed is None else min(since, failed)
    return invoice_facts.failing_since(row)


def _past_due(
    row: Subscription, event: Event[StripeSubscription], status: SubscriptionStatus, new_version: Version
) -> dict[str, Any]:
    stored = row.newest.get("past_due", {})
    other, since = stored.get("other", UNSEEN), stored.get("since", [])
    if row.stripe_status not in (None, SubscriptionStatus.PAST_DUE):
        other = max(other, row.version)
    if status is not SubscriptionStatus.PAST_DUE:
        other = max(other, new_version)
    else:
        since = sorted({*since, new_version})
        if event.previous.get("status", status) != status:
            other = max(other, version(event.created, 0, ""))  # just before this event
    return {"other": other, "since": [one for one in since if one > other][:MOST]}
