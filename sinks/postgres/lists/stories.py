"""Makes stories of stored rows: why a customer has access or not, and what an event did not do. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from schemas.timer import timer_event_type

Found = Mapping[str, Any]

_GIVES_ACCESS = frozenset({"active", "trialing"})
_MAY_RESTORE = ("customer.subscription.", "invoice.paid", "invoice.payment_succeeded", "checkout.session.")
_HOURS_SHOWN = timedelta(days=3)


class Level(StrEnum):
    """What a fact means for the customer's access."""

    OK = "ok"
    WAIT = "wait"
    BAD = "bad"
    NEUTRAL = ""


@dataclass(frozen=True, slots=True)
class StoryLink:
    """One link of a chain. `event_id` is the event that the fact comes from, None if it is derived."""

    text: str
    level: Level = Level.NEUTRAL
    event_id: str | None = None


def access_chain(found: Found, money: Callable[[int, str], str]) -> list[StoryLink]:
    """Returns why the customer has access or not, from the verdict down to what is missing.

    `money` formats an amount in minor units of a currency.

    `found` is queries.customer_overview with `access` (the row of the view) and `dead_letters` (the open ones).
    """
    chain = [_verdict(found.get("access") or found["organization"])]
    for subscription in found["subscriptions"]:
        chain += _of_subscription(subscription)
    if not found["subscriptions"]:
        chain.append(StoryLink("no subscription is stored", Level.BAD))
    for payment in found["payments"]:
        if payment["status"] == "failed":
            chain += _of_failed_payment(payment, found["emails"], money)
    has_access = bool((found.get("access") or found["organization"] or {}).get("has_access"))
    return [*chain, *_unsettled(found["events"], found["dead_letters"], has_access=has_access)]


def _verdict(access: Found | None) -> StoryLink:
    if not access:
        return StoryLink("no organization is stored: no event has made one", Level.WAIT)
    reason = access.get("reason") or access.get("access_reason") or "no subscription gives any"
    if access["has_access"]:
        return StoryLink(f"has access by plan {access['plan'] or '(unknown)'}: {reason}", Level.OK)
    return StoryLink(f"has no access: {reason}", Level.BAD)


def _of_subscription(row: Found) -> list[StoryLink]:
    status, since = row["status"], ""
    if status not in _GIVES_ACCESS:
        at = row["ended_at"] or row["payment_failed_at"] or row["canceled_at"]
        since = f" since {at:%Y-%m-%d}" if at is not None else ""
        if row["cancellation_reason"]:
            since += f" ({row['cancellation_reason'].replace('_', ' ')})"
    facts = [
        StoryLink(f"{row['subscription_id']} is {status}{since}", _level_of(status), event_of(row["status_version"]))
    ]
    ends_at = row["cancel_at"] or (row["current_period_end"] if row["cancel_at_period_end"] else None)
    if ends_at is not None and row["ended_at"] is None:
        facts.append(StoryLink(f"{row['subscription_id']} ends on {ends_at:%Y-%m-%d}", Level.WAIT))
    if row["pause_collection"] is not None:
        until = f" until {row['resumes_at']:%Y-%m-%d}" if row["resumes_at"] is not None else ""
        facts.append(StoryLink(f"the collection of {row['subscription_id']} is paused{until}", Level.WAIT))
    if row["plan"] is None and row["price_id"]:
        facts.append(StoryLink(f"its price {row['price_id']} is in no plan of the config", Level.BAD))
    return facts


def _level_of(status: str) -> Level:
    return Level.OK if status in _GIVES_ACCESS else Level.WAIT if status == "past_due" else Level.BAD


def _of_failed_payment(payment: Found, emails: Sequence[Found], money: Callable[[int, str], str]) -> list[StoryLink]:
    name = payment["invoice_id"] or payment["payment_id"]
    reason = f" ({payment['failure_reason']})" if payment["failure_reason"] else ""
    amount, tries = money(payment["amount"], payment["currency"]), payment["attempt_count"]
    times = f" {tries} times" if tries > 1 else ""
    event = event_of(payment["failure_version"])
    facts = [StoryLink(f"{name} over {amount} failed{times}{reason}", Level.BAD, event)]
    steps = sorted(payment["dunning_steps"].items(), key=lambda step: str(step[1]))
    facts += [StoryLink(f"{step} on {str(at)[:10]}{_mail_of(step, name, emails)}") for step, at in steps]
    if payment["lost_at"] is not None:
        facts.append(StoryLink(f"given up on {payment['lost_at']:%Y-%m-%d}", Level.BAD))
    return facts


def _mail_of(template: str, subject: str, emails: Sequence[Found]) -> str:
    for mail in emails:
        if mail["template"] == template and subject in mail["email_key"]:
            return f", mail {mail['status']}"
    return ""


def _unsettled(events: Sequence[Found], letters: Sequence[Found], *, has_access: bool) -> list[StoryLink]:
    facts = []
    for letter in letters:
        if letter["status"] == "open":
            would = "; it may restore access" if not has_access and may_restore(letter["type"]) else ""
            text = (
                f"{letter['event_id']} ({letter['type']}) is dead: {letter['error_class']}: {letter['message']}{would}"
            )
            facts.append(StoryLink(text, Level.BAD, letter["event_id"]))
    for event in events:
        if event["outcome"] == "waiting":
            text = f"{event['event_id']} ({event['type']}) waits: {event['reason']}"
            facts.append(StoryLink(text, Level.WAIT, event["event_id"]))
    return facts or [StoryLink("nothing of this customer is waiting or dead", Level.OK)]


def may_restore(type_: str | None) -> bool:
    """Returns whether an event of this type can give a customer access."""
    return (type_ or "").startswith(_MAY_RESTORE)


def event_of(version: str | None) -> str | None:
    """Returns the id of the event that a version names (schemas/version.py), None for a row without one."""
    event_id = (version or "").rpartition(":")[2]
    return event_id or None


def not_done(found: Found) -> list[str]:
    """Returns what the event did not do, and why, one sentence each.

    `found` is queries.event_overview with `about`: the payment or subscription that a timer's event is about, if any.
    """
    event = found["event"]
    if event is None:
        return ["it has no verdict yet"]
    said = [
        f"mail {mail['template']} was not sent: {mail['last_error'] or mail['status']}"
        for mail in found["emails"]
        if mail["status"] in ("withheld", "failed", "suppressed")
    ]
    match event["outcome"]:
        case "ignored":
            said.append(f"nothing was changed: no rule handles {event['type']}")
        case "stale":
            said.append(f"older than what is stored: {event['reason']}")
        case "waiting":
            said.append(f"it is not applied yet: {event['reason']}")
        case "dead":
            said.append(f"it is not applied: {event['reason']}")
        case _ if event["type"].startswith(timer_event_type("")) and not found["emails"]:
            said.append(_why_no_mail(event, found.get("about")))
    return said


def _why_no_mail(event: Found, about: Found | None) -> str:
    fired = event["created"]
    for name, what in (("paid_at", "was paid"), ("closed_at", "was closed"), ("ended_at", "had ended")):
        at = (about or {}).get(name)
        if at is not None and fired is not None and at <= fired:
            subject = (about or {}).get("id", "it")
            return f"no mail was queued: {subject} {what} {_duration(fired - at)} before the timer fired"
    return "no mail was queued: when the timer fired, there was nothing left to say"


def _duration(time: timedelta) -> str:
    if time >= _HOURS_SHOWN:
        return f"{time.days} days"
    minutes = int(time.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"


def upcoming(found: Found, now: datetime) -> list[Found]:
    """Returns the customer's pending timers that are not overdue, the next one first."""
    pending = (timer for timer in found["timers"] if timer["status"] == "pending" and timer["due_at"] > now)
    return sorted(pending, key=lambda timer: timer["due_at"])
