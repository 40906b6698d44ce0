"""The fold gives the result of the rules for a log with repetitions, and the checker finds every deviation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.effects import Order, QueueEmail
from schemas.record import Record, RecordHeaders, Source, record_of
from schemas.settings import Config
from schemas.state import ROW_TYPES, Customer, Subscription, Timer
from schemas.statuses import TimerStatus
from schemas.timer import timer_event
from sinks.email.message import message_id
from sinks.postgres.outboxes import EMAILS, Origin, Outbox
from streams.decode import EventSummary
from streams.rules.catalog import RULES
from tests.chaos.checker import Findings, Post, Tables, check
from tests.chaos.history import deliveries, in_order
from tests.oracle.fold import Fold

AT = 1_795_000_000
MAKE = StripeEvents()
SUBSCRIBED = MAKE.event("customer.subscription.created", MAKE.subscription(start=AT), AT, id_="evt_sub")
PAID = MAKE.event("invoice.paid", MAKE.invoice(status="paid", created=AT), AT, id_="evt_paid")
BROKEN = MAKE.event("customer.subscription.updated", MAKE.subscription(start=AT, status="frozen"), AT, id_="evt_broken")
UNKNOWN = MAKE.event("product.created", {"id": "prod_1", "object": "product"}, AT, id_="evt_other")
LINK = {"id": "inpay_1", "object": "invoice_payment", "invoice": "in_1"}
LINKED = MAKE.event(
    "invoice_payment.paid", LINK | {"payment": {"type": "payment_intent", "payment_intent": "pi_9"}}, AT, id_="evt_link"
)


def record(event: Json, offset: int, *, source: Source = Source.STRIPE) -> Record:
    headers = RecordHeaders(
        event["id"], event["type"], source, "", False, "", "default", datetime(2026, 11, 23, tzinfo=UTC)
    )
    return record_of("billing.events", 0, offset, b"cus_1", orjson.dumps(event), headers.encode(), 0.0)


def log_of(*events: Json) -> list[Record]:
    return [record(event, offset) for offset, event in enumerate(events)]


def fold_of(*events: Json) -> Fold:
    return Fold(Config(), RULES).take_all(log_of(*events))


def outcomes(fold: Fold) -> dict[str, str]:
    return {event_id: judged.outcome for event_id, judged in fold.ledger.items()}


def test_each_event_has_the_outcome_of_its_rule() -> None:
    fold = fold_of(SUBSCRIBED, PAID, BROKEN, UNKNOWN)
    assert outcomes(fold) == {"evt_sub": "applied", "evt_paid": "applied", "evt_broken": "dead", "evt_other": "ignored"}
    assert fold.ledger["evt_broken"].error_class == "MalformedEvent"
    mails = [email.template for _, email in fold.orders[EMAILS].values() if isinstance(email, QueueEmail)]
    assert mails == ["subscription-welcome", "payment-receipt"]


def test_a_repeated_event_is_decided_at_its_first_position() -> None:
    fold = fold_of(SUBSCRIBED, PAID, SUBSCRIBED, PAID)
    assert (fold.ledger["evt_sub"].offset, fold.ledger["evt_paid"].offset, fold.deliveries) == (0, 1, 4)


def test_a_waiting_event_is_applied_when_the_missing_one_arrives() -> None:
    fold = fold_of(LINKED, PAID)
    assert outcomes(fold)["evt_link"] == "waiting"
    fold.settle()
    assert (outcomes(fold)["evt_link"], fold.waited) == ("applied", {"evt_link"})


def test_an_event_keeps_waiting_if_the_missing_one_never_arrives() -> None:
    fold = fold_of(LINKED)
    fold.settle()
    assert outcomes(fold) == {"evt_link": "waiting"}


def test_a_record_without_an_event_id_is_counted_separately() -> None:
    fold = Fold(Config(), RULES)
    fold.take(record_of("billing.events", 0, 7, None, b"no JSON", (), 0.0))
    assert (fold.nameless, fold.ledger) == ([(0, 7)], {})


def test_a_timer_has_fired_once_its_event_is_on_the_log() -> None:
    fold = fold_of(SUBSCRIBED)
    timer = Timer(
        timer_key="unheard:1",
        account="",
        customer_id="cus_1",
        kind="unheard-of",
        subject="sub_1",
        due_at=datetime.fromtimestamp(AT, UTC),
    )
    fold.known.save(timer)
    fold.take(record(timer_event(timer), 1, source=Source.TIMER))
    fired = fold.known.timer(timer.timer_key)
    assert fired is not None
    assert (fired.status, fold.fired) == (TimerStatus.FIRED, {timer.timer_key})


@pytest.mark.parametrize("seed", range(2))
def test_a_history_gives_one_state_however_it_is_delivered(seed: int) -> None:
    lives = in_order(seed, 1200, 60, AT)
    sent = deliveries(seed, lives)
    assert len(sent) > len({delivery.event_id for delivery in sent}) == 1200
    straight = fold_of(*(event for life in lives for event in life))
    mixed = Fold(Config(), RULES)
    for offset, delivery in enumerate(sent):
        mixed.take(record(orjson.loads(delivery.body), offset))
    for fold in (straight, mixed):
        fold.settle()
    dead = {event_id for event_id, outcome in outcomes(mixed).items() if outcome == "dead"}
    assert dead == {delivery.event_id for delivery in sent if delivery.is_poison} != set()
    for kind in ROW_TYPES:
        if kind is not Timer:
            assert mixed.known.changed(kind)[0] == straight.known.changed(kind)[0]


# -- the checker -----------------------------------------------------------------------------------------------------

EVENTS = (SUBSCRIBED, PAID, BROKEN)


def tables_of(fold: Fold) -> Tables:
    """The tables that Postgres would contain after a correct run."""
    begun = datetime.fromtimestamp(AT, UTC)
    return Tables(
        ledger={
            event_id: {
                "event_id": event_id,
                "type": judged.envelope.type,
                "outcome": judged.outcome,
                "reason": None,
                "partition": judged.partition,
                "offset": judged.offset,
                "applied_at": begun + timedelta(seconds=judged.offset),
            }
            for event_id, judged in fold.ledger.items()
        },
        state={kind: {row.key: row for row in fold.known.changed(kind)[0]} for kind in ROW_TYPES},
        outboxes={
            outbox: {key: queued(outbox, *ordered) for key, ordered in orders.items()}
            for outbox, orders in fold.orders.items()
        },
        letters=[{"event_id": "evt_broken"}],
    )


def queued(outbox: Outbox, envelope: EventSummary, order: Order) -> dict[str, Any]:
    """A delivered row as Postgres returns it, with JSON columns as text."""
    row = outbox.to_row(order, Origin(envelope.id, envelope.livemode), datetime.fromtimestamp(AT, UTC))
    columns = {name: getattr(row, name) for name in (field.name for field in fields(row))}
    texts = {name: orjson.dumps(value) for name, value in columns.items() if isinstance(value, Mapping)}
    return columns | texts | {"status": outbox.done, "attempts": 1}


def findings_after(harm: Callable[[Tables, Path], object], folder: Path) -> Findings:
    """The checker's findings for a correct run after `harm` has damaged its result."""
    records = log_of(*EVENTS)
    fold = Fold(Config(), RULES).take_all(records)
    tables = tables_of(fold)
    for number, key in enumerate(tables.emails):
        deliver(folder, key, f"{number}")
    harm(tables, folder)
    return check([event["id"] for event in EVENTS], records, fold, tables, Post(folder, "localhost"))


def deliver(folder: Path, key: str, name: str) -> None:
    text = f"From: a@localhost\r\nMessage-ID: {message_id(key, 'localhost')}\r\n\r\nhello\r\n"
    (folder / f"{name}.eml").write_bytes(text.encode())


def test_a_correct_run_has_no_findings(tmp_path: Path) -> None:
    findings = findings_after(lambda *_: None, tmp_path)
    assert findings.wrong == {name: [] for name in findings.wrong}


def _deliver_again(tables: Tables, folder: Path) -> None:
    deliver(folder, next(iter(tables.emails)), "again")


def _alter_subscription(tables: Tables, _: Path) -> None:
    rows: Any = tables.state[Subscription]
    ((key, row),) = rows.items()
    rows[key] = replace(row, payment_attempts=row.payment_attempts + 1)


HARMS: dict[str, tuple[str, Callable[[Tables, Path], object]]] = {
    "a ledger row is missing": ("lost", lambda tables, _: tables.ledger.pop("evt_paid")),
    "an event still waits": ("lost", lambda tables, _: tables.ledger["evt_paid"].update(outcome="waiting")),
    "a ledger row belongs to no event": (
        "invented",
        lambda tables, _: tables.ledger.update(evt_none=tables.ledger["evt_paid"]),
    ),
    "an outcome is different": ("judged_otherwise", lambda tables, _: tables.ledger["evt_sub"].update(outcome="stale")),
    "one was applied too late": (
        "out_of_order",
        lambda tables, _: tables.ledger["evt_sub"].update(applied_at=datetime.fromtimestamp(AT + 60, UTC)),
    ),
    "one was applied from elsewhere": ("out_of_order", lambda tables, _: tables.ledger["evt_sub"].update(offset=9)),
    "a row is missing": ("state", lambda tables, _: dict.clear(tables.state[Customer])),  # type: ignore[arg-type]  # read-only to others
    "a row was altered twice": ("state", _alter_subscription),
    "a mail was not queued": ("outboxes", lambda tables, _: tables.emails.popitem()),
    "a mail has other data": (
        "outboxes",
        lambda tables, _: next(iter(tables.emails.values())).update(data=b'{"plan": "other"}'),
    ),
    "a mail did not arrive": ("mails_missing", lambda _, folder: next(folder.glob("*.eml")).unlink()),
    "a mail was not marked": (
        "mails_missing",
        lambda tables, _: next(iter(tables.emails.values())).update(status="sending"),
    ),
    "a mail arrived twice": ("mails_doubled", _deliver_again),
    "a letter is missing": ("letters", lambda tables, _: tables.letters.clear()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_each_kind_of_damage_is_found(harm: str, tmp_path: Path) -> None:
    kind, do_it = HARMS[harm]
    assert findings_after(do_it, tmp_path).wrong[kind] != []


def test_a_second_copy_after_an_unfinished_try_is_counted_separately(tmp_path: Path) -> None:
    def harm(tables: Tables, folder: Path) -> None:
        _deliver_again(tables, folder)
        next(iter(tables.emails.values())).update(attempts=2)

    findings = findings_after(harm, tmp_path)
    assert (findings.is_clean, findings.mails_in_the_window) == (True, 1)
