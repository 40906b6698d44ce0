"""Keeps what earlier events said of a subscription's unpaid time, in any order of arrival (behaviours.md B8, C3).

In the column `newest`, beside what orders the events of its second (same_second.py):

    past_due    `tied`: the statuses that the events of one second show, the last second in which the subscription was
                not past due; `other`: that second, as a version; `since`: the versions of later events, which all show
                it past due, and the second itself if it ended past due
    unpaid      the newest event that shows it past due or unpaid: its version, the latest `invoice` at that time, and
                what orders it among others of its second
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.event import Event
from schemas.state import Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription, previous_values
from schemas.version import UNSEEN, Version, version
from streams.rules import same_second
from streams.rules.precedence import rank_of, seconds_of, time_of
from streams.rules.subscriptions import invoice_facts

MOST = 32
"""Maximum number of versions in `since`, one for each second: the oldest half and the newest half."""

_UNPAID = frozenset({SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID})
_PAST_DUE = str(SubscriptionStatus.PAST_DUE)

Entry = Mapping[str, Any]


def with_event(
    row: Subscription, event: Event[StripeSubscription], status: SubscriptionStatus, new_version: Version
) -> dict[str, Any]:
    """Returns both entries after an event with this status; {} if there are none. `row` is the one before the event."""
    unpaid: Mapping[str, Any] = row.newest.get("unpaid", {})
    if status in _UNPAID:
        unpaid = _with_unpaid(unpaid, event, new_version)
    past_due = row.newest.get("past_due", {})
    shown = [*_shown_by(row), _shown(new_version, status, event.previous)]
    if past_due or any(map(_names_past_due, shown)):  # of few events, and the entry costs a twentieth of deciding one
        for one in shown:
            past_due = _with(past_due, one)
        past_due = past_due if _is_needed(past_due) else {}
    return ({"unpaid": unpaid} if unpaid else {}) | ({"past_due": past_due} if past_due else {})


def past_due_since(row: Subscription) -> datetime | None:
    """Returns when the subscription became past due (UTC): its latest invoice failed, or Stripe changed its status.

    If no event shows the change, it is when its payments began to fail; None if that is not known either.
    """
    other: Version = row.newest.get("past_due", {}).get("other", UNSEEN)
    if row.stripe_status is not SubscriptionStatus.PAST_DUE or not other:
        return invoice_facts.failing_since(row)
    since = row.newest["past_due"]["since"]
    # What orders the row's own second knows more than the statuses: it ended past due, as the row shows.
    is_own_second = seconds_of(other) == seconds_of(row.version)
    first = time_of(row.version if is_own_second or not since else Version(since[0]))
    failed = invoice_facts.latest_failed_at(row)
    return first if failed is None else min(first, failed)


def _with_unpaid(unpaid: Entry, event: Event[StripeSubscription], new_version: Version) -> Entry:
    previous, stored = previous_values(event.previous), Version(unpaid.get("version", UNSEEN))
    new = {
        "version": new_version,
        "previous": {"invoice": previous["latest_invoice"]} if "latest_invoice" in previous else {},
        "facts": {"invoice": event.object.latest_invoice},
    }
    entry = {name: unpaid[name] for name in ("previous", "tied") if name in unpaid}
    found = same_second.settled(entry, stored, {"invoice": unpaid.get("invoice")}, new)
    if found is None:
        return unpaid
    latest, entry = found
    return {"version": latest["version"], **latest["facts"], **entry}


def _shown(new_version: Version, status: str, previous: Mapping[str, Any]) -> same_second.Snapshot:
    former = previous.get("status", status)
    changed = {"status": str(former)} if former != status else {}
    return {"version": new_version, "previous": changed, "facts": {"status": str(status)}}


def _shown_by(row: Subscription) -> list[same_second.Snapshot]:
    """What the events of the second of the row's version showed: no entry has it if none was past due."""
    if row.stripe_status is None:
        return []
    only: same_second.Snapshot = {"version": row.version, "previous": row.newest.get("previous", {}), "facts": {}}
    return [
        _shown(Version(one["version"]), one["facts"].get("stripe_status", row.stripe_status), one["previous"])
        for one in row.newest.get("tied") or [only]
    ]


def _is_needed(entry: Entry) -> bool:
    return bool(entry["since"]) or any(map(_names_past_due, entry["tied"]))


def _names_past_due(one: same_second.Snapshot) -> bool:
    return _PAST_DUE in (_status(one), *one["previous"].values())


def _with(entry: Entry, new: same_second.Snapshot) -> Entry:
    """The entry after one more event. The result is that of the set of events, whatever their order."""
    other, since = Version(entry.get("other", UNSEEN)), [Version(one) for one in entry.get("since", ())]
    second, last = seconds_of(new["version"]), seconds_of(other) if other else -1
    if second < last:
        return entry
    by_second = {seconds_of(one): one for one in sorted(since)}
    if second > last and _status(new) == _PAST_DUE and not new["previous"]:
        by_second[second] = max(by_second.get(second, UNSEEN), new["version"])
        return {"other": other, "since": _bounded(by_second), "tied": list(entry.get("tied", ()))}
    if second == last:
        tied = list(entry.get("tied") or _before_tied(other))
    else:
        tied = [_shown(by_second[second], SubscriptionStatus.PAST_DUE, {})] if second in by_second else []
    tied = _without_repeats([*tied, new])
    later = {at: one for at, one in by_second.items() if at > second}
    if _ended_past_due(tied):
        later[second] = max(one["version"] for one in tied if _status(one) == _PAST_DUE)
        other = version(second, 0, "")  # just before
    else:
        other = max(one["version"] for one in tied)
    return {"other": other, "since": _bounded(later), "tied": tied}


def _ended_past_due(tied: list[same_second.Snapshot]) -> bool:
    """Whether a second may have ended past due. Then it did: no later event shows that the subscription became so."""
    highest = max(rank_of(one["version"]) or 0 for one in tied)
    last = [one for one in tied if rank_of(one["version"]) == highest]
    if "is_cut" not in tied[0]:
        last = same_second.candidates_of(last)
    return any(_status(one) == _PAST_DUE for one in last)


def _without_repeats(tied: list[same_second.Snapshot]) -> list[same_second.Snapshot]:
    """Returns the events of one second by version. Of those that only show a status, the greatest is enough."""
    known = {one["version"]: one for one in tied}
    last = {_status(one): seen for seen, one in sorted(known.items()) if not one["previous"]}
    return same_second.bounded(
        {seen: one for seen, one in known.items() if one["previous"] or last[_status(one)] == seen}
    )


def _before_tied(other: Version) -> list[same_second.Snapshot]:
    """What an entry without `tied` knows of the second of `other`."""
    if other == version(seconds_of(other), 0, ""):
        change = {"status": str(SubscriptionStatus.ACTIVE)}
        return [_shown(other, SubscriptionStatus.PAST_DUE, change)]
    return [_shown(other, SubscriptionStatus.ACTIVE, {})]


def _bounded(by_second: Mapping[int, Version]) -> list[Version]:
    since = [one for _, one in sorted(by_second.items())]
    return since if len(since) <= MOST else since[: MOST // 2] + since[-MOST // 2 :]


def _status(one: same_second.Snapshot) -> str:
    return str(one["facts"]["status"])
