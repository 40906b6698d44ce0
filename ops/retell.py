"""Sends a story through a running system, one event after another, and reads from Postgres what came of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from local.mailbox import read_mailbox
from ops.lag import lag_of
from ops.send import post
from ops.story import Step
from ops.system import System
from sinks.postgres import queries
from sinks.postgres.connection import make_engine

_WITHIN_S = 30.0
_PAUSE_S = 0.01


@dataclass(slots=True)
class Told:
    """One delivery, what came of it, and how that differs from the story."""

    step: Step
    answer: int
    outcome: str
    changes: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    ms: float | None = None
    """From received by the gateway to written by the worker."""


@dataclass(slots=True)
class Report:
    told: list[Told]
    letters: list[dict[str, Any]]
    figures: dict[str, str]
    surprises: list[str]


class TooLate(Exception):
    """What the story waits for did not come."""


async def tell(system: System, steps: list[Step], say: Callable[[str], None]) -> Report:
    """Sends the steps in order; each waits for its predecessor's verdict, so that what it changed can be seen."""
    engine = make_engine(SecretStr(system.env["BILLING_DATABASE_URL"]), application="billing-demo")
    async with aiohttp.ClientSession() as session, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")  # each look sees the present
        known_before = await _duplicates(system, session)
        told: list[Told] = []
        for number, step in enumerate(steps, 1):
            told.append(await _tell_one(system, step, session, connection))
            if number % 10 == 0:
                say(f"  {number} of {len(steps)}")
        await _until(lambda: _is_all_read(system), "the worker to have read all of the log")
        known = await _duplicates(system, session) - known_before
        letters = [
            letter for one in told for letter in await queries.dead_letters_of_event(connection, one.step.event["id"])
        ]
        surprises = [f"{one.step.who}, {one.step.what}: {what}" for one in told for what in one.surprises]
        surprises += await _mail_surprises(system, told, connection)
    repeated = sum(step.is_again for step in steps)
    if known != repeated:
        surprises.append(f"{repeated} duplicates were sent, the worker knew {known} as such")
    return Report(told, letters, _figures(told, int(known)), surprises)


async def _tell_one(system: System, step: Step, session: aiohttp.ClientSession, connection: AsyncConnection) -> Told:
    before = await _facts(connection, step)
    secret = (
        SecretStr("whsec_of_somebody_else") if step.is_forged else system.config.endpoints[step.endpoint].secrets[0]
    )
    answer = await post(session, f"{system.gateway_url}/webhooks/stripe/{step.endpoint}", step.body, secret)
    told = Told(step, answer.status, "duplicate" if step.is_again else f"refused: {answer.reason}")
    if answer.status != step.answer:
        told.surprises.append(f"answered {answer.status} {answer.reason}, not {step.answer}")
    event_id = step.event["id"]
    if answer.status == 200 and not step.is_again:
        row = await _until(lambda: queries.ledger_row(connection, event_id), f"a verdict on {event_id}")
        told.outcome, told.ms = row["outcome"], (row["applied_at"] - row["received_at"]).total_seconds() * 1000
        told.mails = sorted(mail["template"] for mail in await queries.emails_of_event(connection, event_id))
        after = await _facts(connection, step)
        told.changes = [
            _change(name, before.get(name), fact) for name, fact in after.items() if before.get(name) != fact
        ]
        if row["outcome"] != step.outcome:
            told.surprises.append(f"came out as {row['outcome']} ({row['reason']}), not {step.outcome}")
        if told.mails != sorted(step.mails):
            told.surprises.append(f"queued the mails {told.mails}, not {sorted(step.mails)}")
    elif step.outcome is None and not step.is_again and await queries.ledger_row(connection, event_id):
        told.surprises.append("reached the ledger")
    return told


async def _facts(connection: AsyncConnection, step: Step) -> dict[str, str]:
    """What is held on the step's customer, a line each."""
    if step.customer_id is None:
        return {}
    held = await queries.customer_overview(connection, "", step.customer_id)
    if held is None:
        return {}
    facts: dict[str, str] = {}
    if customer := held.get("customer"):
        facts["customer"] = customer["email"] or "without an address"
    if organization := held.get("organization"):
        facts["organization"] = f"{organization['status']}, plan {organization['plan'] or 'unknown'}"
    if admins := [member["user_id"] for member in held.get("members", ()) if member["role"] == "ADMIN"]:
        facts["admin"] = ", ".join(admins)
    for subscription in held.get("subscriptions", ()):
        facts["subscription"] = f"{subscription['status']}, {subscription['plan'] or 'plan unknown'}"
    for payment in held.get("payments", ()):
        facts[f"payment {payment['invoice_id']}"] = f"{payment['status']} {payment['amount']} {payment['currency']}"
    for timer in held.get("timers", ()):
        facts[f"timer {timer['kind']}"] = f"{timer['status']}, due {timer['due_at']:%Y-%m-%d}"
    return facts


def _change(name: str, before: str | None, after: str) -> str:
    return f"{name}: {after}" if before is None else f"{name}: {before} → {after}"


async def _mail_surprises(system: System, told: list[Told], connection: AsyncConnection) -> list[str]:
    """Every queued mail is sent, and lies in the mailbox exactly once."""
    ids = [one.step.event["id"] for one in told if one.mails]

    async def unsent() -> bool:
        mails = [mail for event_id in ids for mail in await queries.emails_of_event(connection, event_id)]
        return all(mail["status"] == "sent" for mail in mails)

    try:
        await _until(unsent, "all mails to be sent")
    except TooLate as error:
        return [str(error)]
    due = {mail["message_id"] for event_id in ids for mail in await queries.emails_of_event(connection, event_id)}
    received = [str(message["Message-ID"]) for message in await asyncio.to_thread(read_mailbox, system.mailbox_dir)]
    return [
        f"mail {message_id} was received {received.count(message_id)} times"
        for message_id in sorted(due)
        if received.count(message_id) != 1
    ]


async def _is_all_read(system: System) -> bool:
    bootstrap, prefix = system.env["BILLING_KAFKA_BOOTSTRAP"], system.env["BILLING_TOPIC_PREFIX"]
    lag = await asyncio.to_thread(lag_of, bootstrap, f"{prefix}.worker", f"{prefix}.events")
    return lag is not None and not any(lag.values())


async def _duplicates(system: System, session: aiohttp.ClientSession) -> float:
    """How many deliveries the worker has dropped as known, by its own count."""
    async with session.get(system.metrics_url("worker-1")) as response:
        families = text_string_to_metric_families(await response.text())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "billing_worker_seen_total"
        or (sample.name == "billing_worker_events_total" and sample.labels["outcome"] == "duplicate")
    )


def _figures(told: list[Told], duplicates: int) -> dict[str, str]:
    outcomes = [one.outcome for one in told]
    times = sorted(one.ms for one in told if one.ms is not None)
    return {
        "accepted": str(sum(one.answer == 200 for one in told)),
        "refused": str(sum(one.answer != 200 for one in told)),
        **{outcome: str(outcomes.count(outcome)) for outcome in ("applied", "stale", "ignored", "dead")},
        "duplicates": str(duplicates),
        "mails": str(sum(len(one.mails) for one in told)),
        "ms from HTTP to committed": f"{median(times):.0f} (median), {times[-1]:.0f} (most)" if times else "none",
    }


async def _until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first true answer of `condition`. Raises TooLate."""
    deadline = time.monotonic() + _WITHIN_S
    while True:
        if answer := await condition():
            return answer
        if time.monotonic() > deadline:
            raise TooLate(f"waited {_WITHIN_S:.0f} s for {what}")
        await asyncio.sleep(_PAUSE_S)
