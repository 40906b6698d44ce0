"""Makes a story of stored rows: an event's timeline, what it changed, and what to do next. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from console import formats
from console.access import Action
from schemas.command_line import command
from schemas.timer import RETRY
from sinks.postgres.outboxes import OUTBOXES, can_be_requeued

Found = Mapping[str, Any]


def timeline_of(found: Found) -> list[dict[str, Any]]:
    """Returns the steps of an event in the order of their times: `at`, `what`, `state`, `detail`, `link`, `url`."""
    steps: list[dict[str, Any]] = []

    def add(at: datetime | None, what: str, state: str = "", detail: str = "", link: str = "", url: str = "") -> None:
        steps.append({"at": at, "what": what, "state": state, "detail": detail, "link": link, "url": url})

    event = found["event"]
    if event is not None:
        add(event["created"], "created at Stripe" if event["source"] != "timer" else "due")
        how = f"endpoint {event['endpoint']}, " if event["endpoint"] else ""
        late = _seconds(event["created"], event["received_at"])
        add(event["received_at"], "received", detail=f"{how}source {event['source']}{late}")
        if event.get("on_the_log"):
            add(event["received_at"], "on the log", detail=event["on_the_log"])
        tries = f"{event['attempts']} attempts, " if event["attempts"] > 1 else ""
        took = _seconds(event["received_at"], event["applied_at"])
        add(event["applied_at"], "decided", event["outcome"], f"{tries}{event['reason'] or ''}{took}".strip(", "))
    for timer in found["timers"]:
        add(timer["due_at"], f"timer {timer['kind']}", timer["status"], f"for {timer['subject']}", url="/timers")
    for outbox in OUTBOXES:
        for entry in found[outbox.name]:
            key = entry[outbox.key]
            what = f"mail {entry['template']}" if outbox.name == "emails" else outbox.name.rstrip("s").replace("_", " ")
            page = f"/mails/{quote(key, safe='')}" if outbox.name == "emails" else f"/outboxes/{outbox.name}"
            ended = entry.get("sent_at") or entry.get("done_at")
            add(entry[outbox.since], f"{what} queued", link=key, url=page)
            if entry["status"] != "queued":
                detail = entry["last_error"] or ""
                add(ended or entry[outbox.since], what, entry["status"], detail, link=key, url=page)
    for letter in found["dead_letters"]:
        reason = f"{letter['error_class']}: {letter['message']}"
        add(letter["first_failed_at"], f"died in {letter['stage']}", "dead", reason, url="/dead")
        if letter["closed_at"] is not None:
            by = f"by {letter['closed_by']}" if letter["closed_by"] else ""
            add(letter["closed_at"], "dead letter", letter["status"], by, url="/dead")
    steps.sort(key=lambda step: (step["at"] is None, step["at"]))
    return steps


def changes_of(event: Found | None) -> list[dict[str, Any]]:
    """Returns what the event changed: for each row `table`, `key`, `did`, and `fields`: name → [before, after]."""
    return [dict(change) for change in (event or {}).get("changes") or ()]


def next_steps(event_id: str, found: Found) -> list[dict[str, str]]:
    """Returns what to do about the event: `what`, the page `url`, and the `command` that does the same.

    `may` is the action (console/access.py) whose page it is, in lower case.
    """
    steps: list[dict[str, str]] = []

    def add(what: str, action: Action, url: str, does: str) -> None:
        steps.append({"what": what, "may": action.name.lower(), "url": url, "command": does})

    event, letters, quoted = found["event"], found["dead_letters"], quote(event_id, safe="")
    for outbox in OUTBOXES:
        for entry in found[outbox.name]:
            if can_be_requeued(entry):
                key, is_mail = entry[outbox.key], outbox.name == "emails"
                page = f"/mails/{quote(key, safe='')}" if is_mail else f"/outboxes/{outbox.name}?status=failed"
                action = Action.RESEND_MAIL if is_mail else Action.REQUEUE
                add(f"Requeue {key}", action, page, command(f"{outbox.command} requeue", key))
    if any(letter["status"] == "open" for letter in letters):
        dry_run = command("dead replay --dry-run", id=event_id)
        add("Rehearse: what a replay would do", Action.REPLAY, f"/dead/rehearsal?id={quoted}", dry_run)
        add("Replay this event", Action.REPLAY, f"/dead/replay?id={quoted}", command("dead replay", id=event_id))
    elif event is not None and event["outcome"] in ("dead", "waiting"):
        retries = [one for one in found["timers"] if one["kind"] == RETRY and one["status"] == "pending"]
        if retries:
            what = f"Retry it now; its retry is due at {formats.utc(retries[0]['due_at'])}"
            page = f"/timers/fire?timer={quote(retries[0]['timer_key'], safe='')}"
            add(what, Action.FIRE_TIMER, page, command("replay", event_id))
        else:
            again = command("dead replay --again", id=event_id) if letters else command("replay", event_id)
            add("Retry it", Action.REPLAY, "", again)
    return steps


def _seconds(start: datetime | None, end: datetime | None) -> str:
    if start is None or end is None:
        return ""
    seconds = (end - start).total_seconds()
    if seconds <= 0:
        return ""
    return f", after {seconds * 1000:.0f} ms" if seconds < 10 else f", after {formats.duration(seconds)}"
