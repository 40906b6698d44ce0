"""Sends the demo's events to a running system one after another, and reads the result of each from Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from analytics.queries import Scope, figures
from eventlog.lag import lag_of
from local.demo import queries as demo_queries
from local.demo.people import DemoStep, Due, TimeLeap
from local.demo.story import OVERTAKEN, TOO_LATE
from local.stack.mailbox import read_mailbox
from local.stripe.post import PostResult, post
from local.system import System
from local.waiting import TooLate, eventually
from schemas.kafka_access import KafkaAccess
from schemas.mail import Money
from sinks.email.localize import FALLBACK, format_money
from sinks.postgres import queries
from sinks.postgres.pool import make_engine, reading

_MOST_REPEATS, _AGAIN_S = 30, 1.0
"""How often an event is sent again after a 503, and the seconds in between."""


@dataclass(slots=True)
class StepResult:
    """The result of one delivery, timer or time leap. `surprises` are differences from the story."""

    who: str
    what: str
    type: str = ""
    event_id: str = ""
    customer_id: str = ""
    answer: int | None = None
    outcome: str = ""
    changes: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    ms: float | None = None
    """Milliseconds from received by the gateway to applied by the worker."""


@dataclass(slots=True)
class DemoReport:
    """All results in order, the dead letters, a summary of the counts, and the differences from the story."""

    results: list[StepResult]
    letters: list[dict[str, Any]]
    figures: dict[str, str]
    surprises: list[str]


async def run_story(system: System, steps: list[DemoStep | TimeLeap], say: Callable[[str], None]) -> DemoReport:
    """Send the steps in order. Each waits for the verdict of the step before it, so that its own changes are visible.

    Raises TooLate.
    """
    engine = make_engine(SecretStr(system.env["BILLING_DATABASE_URL"]), application="billing-demo")
    async with aiohttp.ClientSession() as session, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")  # each query sees the latest commit
        known_before = await _duplicates(system, session)
        runner = _StoryRunner(system, session, connection)
        for number, step in enumerate(steps, 1):
            await runner.run(step)
            if number % 10 == 0:
                say(f"  {number} of {len(steps)} steps")
        results = runner.results
        await eventually(lambda: _is_all_read(system), "the worker to read the whole log")
        known = await _duplicates(system, session) - known_before
        letters = [
            letter for result in results for letter in await queries.dead_letters_of_event(connection, result.event_id)
        ]
        surprises = [f"{result.who}, {result.what}: {what}" for result in results for what in result.surprises]
        surprises += await _mail_surprises(system, results, connection)
    repeated = sum(isinstance(step, DemoStep) and step.is_again for step in steps)
    if known != repeated:
        surprises.append(f"{repeated} duplicates were sent, the worker recognized {known:.0f}")
    return DemoReport(results, letters, _figures(results, int(known)), surprises)


async def mrr_of(system: System) -> dict[str, list[dict[str, Any]]]:
    """Return MRR and its rates once analytics has read the whole log. Raises TooLate."""
    await eventually(lambda: _is_all_read(system, "analytics"), "analytics to read the whole log")
    async with reading(SecretStr(system.env["BILLING_DATABASE_URL"])) as connection:
        found = await figures(connection, Scope(), "currency")
    return {name: found[name] for name in ("mrr", "rates")}


@dataclass(slots=True)
class _StoryRunner:
    system: System
    session: aiohttp.ClientSession
    connection: AsyncConnection
    results: list[StepResult] = field(default_factory=list)
    customers: dict[str, str] = field(default_factory=dict)
    """Id → name of the customers that have appeared so far."""
    fired: set[str] = field(default_factory=set)
    """Event ids of the timers that are reported already."""

    async def run(self, step: DemoStep | TimeLeap) -> None:
        if isinstance(step, TimeLeap):
            await self._wait(step)
        else:
            await self._send(step)

    async def _delivered(self, url: str, body: bytes, secret: SecretStr) -> PostResult:
        """Sends the event again after a 503, as Stripe does: a new Kafka on a busy machine may answer too late."""
        answer = await post(self.session, url, body, secret)
        for _ in range(_MOST_REPEATS):
            if answer.status != 503:
                break
            await asyncio.sleep(_AGAIN_S)
            answer = await post(self.session, url, body, secret)
        return answer

    async def _send(self, step: DemoStep) -> None:
        self.customers[step.customer_id] = step.who
        before = await _facts(self.connection, step.customer_id)
        secret = SecretStr("whsec_of_an_attacker")
        if not step.is_forged:
            secret = self.system.config.endpoints[step.endpoint].secrets[0]
        url = f"{self.system.gateway_url}/webhooks/stripe/{step.endpoint}"
        answer = await self._delivered(url, step.body, secret)
        event_id = step.event["id"]
        result = StepResult(step.who, step.what, step.event["type"], event_id, step.customer_id, answer.status)
        result.outcome = "duplicate" if step.is_again else f"refused: {answer.reason}"
        self.results.append(result)
        if answer.status != step.answer:
            result.surprises.append(f"HTTP {answer.status} {answer.reason}, expected {step.answer}")
        if answer.status == 200 and not step.is_again:
            row = await eventually(lambda: queries.ledger_row(self.connection, event_id), f"a verdict on {event_id}")
            result.outcome, result.ms = row["outcome"], (row["applied_at"] - row["received_at"]).total_seconds() * 1000
            result.mails = await self._mails(event_id)
            if row["outcome"] != step.outcome:
                result.surprises.append(f"outcome {row['outcome']} ({row['reason']}), expected {step.outcome}")
            if result.mails != sorted(step.mails):
                result.surprises.append(f"queued the mails {result.mails}, expected {sorted(step.mails)}")
            await self._fire(step.fires, result)
            result.changes = _changes(before, await _facts(self.connection, step.customer_id))
        elif step.outcome is None and not step.is_again and await queries.ledger_row(self.connection, event_id):
            result.surprises.append("the ledger has it, although it was refused")

    async def _wait(self, later: TimeLeap) -> None:
        """Move the clock, after all mails queued so far are sent or withheld, and report the timers that then fire."""
        before = {id_: await _facts(self.connection, id_) for id_ in self.customers}
        await eventually(lambda: _are_settled(self.connection, self.results), "all mails to be sent or withheld")
        leap = StepResult("", f"{later.days} days after the start")
        self.results.append(leap)
        await asyncio.to_thread(self.system.move_clock, later.days)
        for one in await self._fire(later.fires, leap):
            after = await _facts(self.connection, one.customer_id)
            one.changes, before[one.customer_id] = _changes(before[one.customer_id], after), after

    async def _fire(self, expected: Sequence[Due], cause: StepResult) -> list[StepResult]:
        """Wait until all due timers have fired, and add a result for each. Missing timers are surprises of `cause`."""
        ids = sorted(self.customers)
        until = datetime.now(UTC) + timedelta(seconds=self.system.clock_ahead_s)

        async def is_done() -> bool:
            return not await demo_queries.due_timers(self.connection, ids, until)

        await eventually(is_done, "all due timers to be processed")
        rows = [
            row for row in await demo_queries.timer_events(self.connection, ids) if row["event_id"] not in self.fired
        ]
        left = list(expected)
        acted: list[StepResult] = []
        for row in rows:
            self.fired.add(row["event_id"])
            who, type_, id_ = self.customers[row["customer_id"]], row["type"], row["customer_id"]
            one = StepResult(who, type_, type_, row["event_id"], id_, outcome=row["outcome"])
            one.mails = await self._mails(row["event_id"])
            due = next((due for due in left if (due.customer_id, f"timer.{due.kind}") == (id_, type_)), None)
            if due is None:
                one.surprises.append("this timer is not part of the story")
            else:
                left.remove(due)
                one.what = due.what
                if (one.outcome, one.mails) != ("applied", sorted(due.mails)):
                    one.surprises.append(
                        f"outcome {one.outcome} with the mails {one.mails}, expected applied with {sorted(due.mails)}"
                    )
            acted.append(one)
        cause.surprises += [f"no timer {due.kind} fired for {due.who}" for due in left]
        self.results += acted
        return acted

    async def _mails(self, event_id: str) -> list[str]:
        return sorted(mail["template"] for mail in await queries.emails_of_event(self.connection, event_id))


async def _facts(connection: AsyncConnection, customer_id: str) -> dict[str, str]:
    """Return what is stored about a customer, one short text per row."""
    held = await queries.customer_overview(connection, "", customer_id)
    if held is None:
        return {}
    facts: dict[str, str] = {}
    if customer := held.get("customer"):
        facts["customer"] = customer["email"] or "no address"
    if organization := held.get("organization"):
        facts["organization"] = f"{organization['status']}, plan {organization['plan'] or 'unknown'}"
    if admins := [member["user_id"] for member in held.get("members", ()) if member["role"] == "ADMIN"]:
        facts["admin"] = ", ".join(admins)
    for subscription in held.get("subscriptions", ()):
        facts["subscription"] = f"{subscription['status']}, {subscription['plan'] or 'plan unknown'}"
    for payment in held.get("payments", ()):
        facts[f"payment {payment['invoice_id']}"] = _payment(payment)
    for card in held.get("payment_methods", ()):
        facts["card"] = f"{card['brand']} {card['last4']}, expires {card['exp_year']}-{card['exp_month']:02d}"
    for timer in held.get("timers", ()):
        facts[f"timer {timer['kind']} for {timer['due_at']:%Y-%m-%d}"] = timer["status"]
    return facts


def _payment(row: dict[str, Any]) -> str:
    """Return the payment's status and amount, and whether a failure was recovered or lost."""
    money = Money(amount=row["amount"], currency=row["currency"])
    parts = [f"{row['status']} {format_money(money, FALLBACK)}"]
    parts += ["on hold"] if row["on_hold"] else []
    parts += [f"recovered by {row['recovered_by']}"] if row["recovered_by"] else []
    parts += ["lost"] if row["lost_at"] else []
    return ", ".join(parts)


def _changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [_change(name, before.get(name), fact) for name, fact in after.items() if before.get(name) != fact]


def _change(name: str, before: str | None, after: str) -> str:
    return f"{name}: {after}" if before is None else f"{name}: {before} → {after}"


async def _mails_of(connection: AsyncConnection, results: Sequence[StepResult]) -> list[dict[str, Any]]:
    ids = [one.event_id for one in results if one.mails]
    return [dict(mail) for event_id in ids for mail in await queries.emails_of_event(connection, event_id)]


async def _are_settled(connection: AsyncConnection, results: Sequence[StepResult]) -> bool:
    return all(mail["status"] in ("sent", "withheld") for mail in await _mails_of(connection, results))


async def _mail_surprises(system: System, results: list[StepResult], connection: AsyncConnection) -> list[str]:
    """Check that every queued mail is in the mailbox once, or withheld, as the story allows it, and never there."""
    try:
        await eventually(lambda: _are_settled(connection, results), "all mails to be sent or withheld")
    except TooLate as error:
        return [str(error)]
    mails = await _mails_of(connection, results)
    received = [str(message["Message-ID"]) for message in await asyncio.to_thread(read_mailbox, system.mailbox_dir)]
    names = {one.event_id: one.who for one in results}
    surprises = []
    for mail in sorted(mails, key=lambda mail: str(mail["message_id"])):
        who, count = names[mail["event_id"]], received.count(mail["message_id"])
        expected = "withheld" if (who, mail["template"]) in TOO_LATE else "sent"
        if mail["status"] != expected and (who, mail["template"]) not in OVERTAKEN:
            why = f" ({mail['last_error']})" if mail["last_error"] else ""
            surprises.append(f"the mail {mail['template']} to {who} is {mail['status']}{why}, expected {expected}")
        if count != (mail["status"] == "sent"):
            surprises.append(f"mail {mail['message_id']} ({mail['status']}) was received {count} times")
    return surprises


async def _is_all_read(system: System, group: str = "worker") -> bool:
    access, prefix = KafkaAccess(system.env["BILLING_KAFKA_BOOTSTRAP"]), system.env["BILLING_TOPIC_PREFIX"]
    lag = await asyncio.to_thread(lag_of, access, f"{prefix}.{group}", f"{prefix}.events")
    return lag is not None and not any(lag.values())


async def _duplicates(system: System, session: aiohttp.ClientSession) -> float:
    """Return how many deliveries the worker has dropped as duplicates, from its metrics."""
    async with session.get(system.metrics_url("worker-1")) as response:
        families = text_string_to_metric_families(await response.text())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "billing_worker_seen_total"
        or (sample.name == "billing_worker_events_total" and sample.labels["outcome"] == "duplicate")
    )


def _figures(results: list[StepResult], duplicates: int) -> dict[str, str]:
    outcomes = [one.outcome for one in results]
    times = sorted(one.ms for one in results if one.ms is not None)
    return {
        "accepted": str(sum(one.answer == 200 for one in results)),
        "refused": str(sum(one.answer not in (200, None) for one in results)),
        "timers": str(sum(one.type.startswith("timer.") for one in results)),
        **{outcome: str(outcomes.count(outcome)) for outcome in ("applied", "stale", "ignored", "dead")},
        "duplicates": str(duplicates),
        "mails": str(sum(len(one.mails) for one in results)),
        "ms from HTTP to committed": f"{median(times):.0f} (median), {times[-1]:.0f} (maximum)" if times else "none",
    }
