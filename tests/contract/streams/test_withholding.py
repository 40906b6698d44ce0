"""What an imported object, or an event from before `mail.not_before`, may cause (behaviours.md F1, F2)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from eventlog import client
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from local.stripe import payments as pay
from local.stripe.builder import Json, StripeEvents
from scheduler.due_timers import Turn
from scheduler.timers import waiting_entry
from schemas.errors import RuleViolated
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, Source, record_of
from schemas.settings import Mail
from schemas.verdict import Applied, Dead, Verdict, Waiting
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from streams.withholding import IMPORTED
from tests.kits.rulekit import CONFIG, DAY, NOW, at
from tests.kits.storekit import fetch

MAKE = StripeEvents()


@dataclass
class Kit:
    processor: Processor
    url: str
    offset: int = 0

    async def take(self, event: Json, source: Source = Source.STRIPE, *, received: int = NOW) -> Verdict:
        entry = Entry.of(event, source=source, received_at=at(received), livemode=False)
        (verdict,) = await self.processor.process([self._record(entry)])
        return verdict

    def _record(self, entry: Entry) -> Record:
        self.offset += 1
        return record_of("events", 0, self.offset, entry.key, entry.value, entry.headers, float(NOW))

    async def retry(self, event_ids: Iterable[str]) -> list[Verdict]:
        """Process those of these events that wait, as their retry timers have it done."""
        connection = await asyncpg.connect(self.url)
        try:
            waiting = await Turn(connection).waiting_events(list(event_ids))
        finally:
            await connection.close()
        entries = [entry for event in waiting.values() if (entry := waiting_entry(event, at(NOW))) is not None]
        return await self.processor.process([self._record(entry) for entry in entries])

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await fetch(self.url, query)

    async def mails(self) -> dict[str, tuple[str, str | None]]:
        rows = await self.rows("select template, status, last_error from billing.emails")
        return {row["template"]: (row["status"], row["last_error"]) for row in rows}

    async def timers(self) -> dict[str, str]:
        return {row["kind"]: row["status"] for row in await self.rows("select kind, status from billing.timers")}


@pytest.fixture
async def kit(kafka_bootstrap: str, migrated_url: str, topic_prefix: str) -> AsyncIterator[Kit]:
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    for creation in admin.create_topics([NewTopic(f"{topic_prefix}.dead", 1, 1)]).values():
        creation.result(timeout=30)
    store = await Store.connect(SecretStr(migrated_url), pool_size=2)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    processor = Processor(
        store=store, dead_letters=letters, rules=RULES, config=CONFIG, group="test.worker", code_version="1",
        clock=lambda: at(NOW),
    )  # fmt: skip
    yield Kit(processor, migrated_url)
    letters.close()
    await store.close()


def imported(obj: Json, type_: str, id_: str = "imp_1") -> Json:
    return MAKE.event(type_, obj, NOW, id_=id_)


def ended(days_ago: int) -> Json:
    end = NOW - days_ago * DAY
    return MAKE.subscription(status="canceled", start=end - 30 * DAY, canceled_at=end, ended_at=end)


async def test_an_imported_end_is_stored_and_nothing_about_it_leaves(kit: Kit) -> None:
    assert await kit.take(imported(ended(20), "customer.subscription.updated"), Source.IMPORT) == Applied()

    (row,) = await kit.rows("select status from billing.subscriptions")
    assert row["status"] == "canceled"
    assert {status for status, _ in (await kit.mails()).values()} <= {"withheld"}
    assert await kit.rows("select status, last_error from billing.exports") == [
        {"status": "withheld", "last_error": IMPORTED}
    ]
    # Erasure is 10 days ahead. The mail that wins customers back was due 6 days ago.
    assert (await kit.timers())["erase"] == "pending"
    assert (await kit.timers()).get("win-back", "cancelled") == "cancelled"
    (ledger,) = await kit.rows("select source from billing.events")
    assert ledger["source"] == "import"


async def test_a_reminder_that_was_due_before_the_import_is_never_started(kit: Kit) -> None:
    trial = MAKE.subscription(status="trialing", start=NOW - 10 * DAY, trial_start=NOW - 10 * DAY, trial_end=NOW + DAY)
    await kit.take(imported(trial, "customer.subscription.updated"), Source.IMPORT)
    assert await kit.timers() == {"trial-reminder": "cancelled"}

    later = MAKE.event("customer.subscription.updated", trial | {"quantity": 2}, NOW + 5, previous={"quantity": 1})
    await kit.take(later, received=NOW + 6)
    assert await kit.timers() == {"trial-reminder": "cancelled"}


async def test_a_reminder_that_is_ahead_is_started(kit: Kit) -> None:
    trial = MAKE.subscription(status="trialing", start=NOW - DAY, trial_start=NOW - DAY, trial_end=NOW + 20 * DAY)
    await kit.take(imported(trial, "customer.subscription.updated"), Source.IMPORT)

    assert await kit.timers() == {"trial-reminder": "pending"}


async def test_the_timer_that_links_a_dispute_to_its_payment_is_started(kit: Kit) -> None:
    dispute = {
        "id": "dp_1", "object": "dispute", "amount": 2900, "currency": "eur",
        "charge": "ch_1", "payment_intent": "pi_1",
        "reason": "fraudulent", "status": "needs_response", "created": NOW - DAY,
        "evidence_details": {"due_by": NOW + 9 * DAY},
    }  # fmt: skip
    await kit.take(imported(dispute, "charge.dispute.updated"), Source.IMPORT)

    assert await kit.timers() == {"dispute-link": "pending", "dispute-due": "pending"}
    assert await kit.mails() == {"dispute-opened": ("withheld", IMPORTED)}


async def test_a_replay_of_an_imported_failure_sends_no_mail_either(kit: Kit) -> None:
    invoice = MAKE.invoice(created=NOW - DAY, attempts=1, next_attempt=NOW + DAY)
    await kit.take(imported(invoice, "invoice.payment_failed"), Source.REPLAY)
    assert await kit.mails() == {"payment-failed": ("withheld", IMPORTED)}

    # Stripe's own event of the same failure comes late: its mail is the same one.
    await kit.take(MAKE.event("invoice.payment_failed", invoice, NOW - DAY))
    assert await kit.mails() == {"payment-failed": ("withheld", IMPORTED)}

    second = MAKE.event("invoice.payment_failed", invoice | {"attempt_count": 2}, NOW + DAY)
    await kit.take(second)
    assert (await kit.mails())["payment-urgent"] == ("queued", None)


async def test_a_past_purchase_is_paid_in_every_order_and_no_one_is_mailed(kit: Kit) -> None:
    """Its events have no customer, so they are on different partitions: none of them is sure to be the first."""
    charge = pay.charge(MAKE, "ch_1", invoice=None, customer=None)
    intent = pay.payment_intent(MAKE, invoice=None, charge="ch_1") | {
        "customer": None, "capture_method": "manual", "amount_received": 2900, "receipt_email": "guest@example.com",
    }  # fmt: skip
    session = MAKE.checkout_session(mode="payment", payment_intent="pi_1", payment_status="unpaid", customer=None)
    events = [
        MAKE.event("charge.succeeded", charge, NOW - 3 * DAY, id_="evt_1"),
        MAKE.event("checkout.session.completed", session, NOW - 3 * DAY, id_="evt_2"),
        MAKE.event("payment_intent.succeeded", intent, NOW - DAY, id_="evt_3"),
    ]
    for number, order in enumerate(itertools.permutations(events)):
        for event in order:
            text = orjson.dumps(event).decode()
            for id_ in ("evt_1", "evt_2", "evt_3", "ch_1", "pi_1", session["id"]):
                text = text.replace(f'"{id_}"', f'"{id_}_{number}"')
            await kit.take(orjson.loads(text), Source.IMPORT)
    waiting = await kit.retry(f"evt_3_{number}" for number in range(6))
    assert len(waiting) == 3
    assert {row["status"] for row in await kit.rows("select status from billing.payments")} == {"succeeded"}
    assert len(await kit.rows("select from billing.payments")) == 6
    assert {
        (row["outcome"], row["source"]) for row in await kit.rows("select outcome, source from billing.events")
    } == {("applied", "import")}
    mails = await kit.rows("select status, last_error, template from billing.emails")
    assert len(mails) == 6
    assert {(row["status"], row["last_error"]) for row in mails} == {("withheld", IMPORTED)}


@contextmanager
def without_rule(kit: Kit, type_: str) -> Iterator[None]:
    """Makes the events of this type dead letters until the block ends."""

    def fail(event: Any, known: Any) -> list[Any]:
        raise RuleViolated("no rule for this yet")

    working = kit.processor
    kit.processor = replace(working, rules={**RULES, type_: replace(working.rules[type_], decide=fail)})
    yield
    kit.processor = working


async def test_a_timer_due_since_the_import_is_started_when_a_past_event_is_applied_later(kit: Kit) -> None:
    """The takeover was when the import read the event, not when a reconciliation appended it again."""
    trial = MAKE.subscription(status="trialing", start=NOW - DAY, trial_start=NOW - DAY, trial_end=NOW + 9 * DAY)
    past = MAKE.event("customer.subscription.created", trial, NOW - DAY, id_="evt_past")
    with without_rule(kit, past["type"]):
        assert isinstance(await kit.take(past, Source.IMPORT), Dead)
    assert await kit.take(past, Source.RECONCILE, received=NOW + 5 * DAY) == Applied()

    assert await kit.timers() == {"trial-reminder": "pending"}  # due 7 days before the end: 2 days after the import
    assert {status for status, _ in (await kit.mails()).values()} <= {"withheld"}


@pytest.mark.parametrize("again", [Source.REPLAY, Source.RECONCILE, Source.STRIPE])
async def test_an_import_makes_no_past_event_of_one_that_was_dead_before(kit: Kit, again: Source) -> None:
    invoice = MAKE.invoice(created=NOW - DAY, attempts=1, next_attempt=NOW + DAY)
    failed = MAKE.event("invoice.payment_failed", invoice, NOW, id_="evt_failed")
    with without_rule(kit, failed["type"]):
        for source in (Source.STRIPE, Source.IMPORT, again, Source.IMPORT):
            assert isinstance(await kit.take(failed, source), Dead)
    assert await kit.rows("select source from billing.events") == [{"source": str(again)}]
    assert await kit.take(failed, again) == Applied()

    assert await kit.mails() == {"payment-failed": ("queued", None)}


@pytest.mark.parametrize("again", [Source.REPLAY, Source.RECONCILE, Source.STRIPE])
@pytest.mark.parametrize("first", ["dead", "waiting"])
async def test_a_past_event_that_is_applied_later_mails_no_one_whatever_brings_it_again(
    kit: Kit, first: str, again: Source
) -> None:
    """An import fetches past events under Stripe's ids. One that could not be applied is about the past for good."""
    intent = pay.payment_intent(MAKE, invoice=None, charge="ch_1") | {"capture_method": "manual"}
    session = MAKE.checkout_session(mode="payment", payment_intent="pi_1", payment_status="unpaid")
    past = MAKE.event("payment_intent.succeeded", intent, NOW - DAY, id_="evt_past")
    checkout = MAKE.event("checkout.session.completed", session, NOW - DAY, id_="evt_checkout")
    if first == "dead":
        await kit.take(checkout, Source.IMPORT)
        with without_rule(kit, "payment_intent.succeeded"):
            assert isinstance(await kit.take(past, Source.IMPORT), Dead)
            assert isinstance(await kit.take(past, again), Dead)
    else:
        for source in (Source.IMPORT, again):
            assert isinstance(await kit.take(past, source), Waiting)
        await kit.take(checkout, Source.IMPORT)
    assert await kit.take(past, again) == Applied()

    assert await kit.mails() == {"payment-receipt": ("withheld", IMPORTED)}
    assert {row["source"] for row in await kit.rows("select source from billing.events")} == {"import"}


@pytest.mark.parametrize("seconds", [-1, 0])
async def test_mails_about_events_before_the_start_are_withheld(kit: Kit, seconds: int) -> None:
    mail = Mail(not_before=datetime.fromtimestamp(NOW, UTC))
    kit.processor = replace(kit.processor, config=CONFIG.model_copy(update={"mail": mail}))
    invoice = MAKE.invoice(created=NOW - DAY, attempts=1, next_attempt=NOW + DAY)
    await kit.take(MAKE.event("invoice.payment_failed", invoice, NOW + seconds))

    ((status, reason),) = (await kit.mails()).values()
    assert status == ("withheld" if seconds < 0 else "queued")
    assert (reason or "").startswith("mail.not_before: it is about 2027-01-15") is (seconds < 0)
    assert await kit.timers() == {"dunning-reminder": "pending"}
