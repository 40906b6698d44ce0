"""Plays field cases and registers what must be true after them.

    @case("01")
    def the_subscription_stays_unpaid(played: Played) -> None:
        assert played.subscription("sub_fb01").status == "unpaid"

Each function is a test in memory (tests/unit/test_field_cases.py) and on the real store
(tests/contract/streams/test_field_cases.py).
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from schemas.effects import QueueEmail
from schemas.known import Known
from schemas.mail import read_mail
from schemas.record import Record, RecordHeaders, Source, record_of
from schemas.refetch import refetched_event
from schemas.settings import Config, Plan
from schemas.state import Customer, Organization, Payment, Subscription, Timer
from schemas.statuses import TimerStatus
from schemas.timer import timer_event
from sinks.postgres.outboxes import EMAILS
from streams.rules.catalog import RULES
from tests.oracle.fold import Fold

Json = dict[str, Any]
R = TypeVar("R")

NOW = datetime(2026, 11, 27, 19, tzinfo=UTC)
"""The present, for the times in the cases."""

CASES = Path(__file__).parent / "cases"

CONFIG = Config(
    plans={
        "free": Plan(name="Free", prices=("price_free",), limits={"seats": 1, "projects": 1}),
        "starter": Plan(name="Starter", prices=("price_starter_monthly",), limits={"seats": 5, "projects": 10}),
        "pro": Plan(
            name="Pro", prices=("price_pro_monthly", "price_pro_yearly"), limits={"seats": 50, "projects": 500}
        ),
    }
)
"""The plans of config.example.toml, which the cases refer to."""


@dataclass(frozen=True, slots=True)
class FieldMail:
    """A mail that the events queued."""

    key: str
    template: str
    customer_id: str | None
    recipient: str | None
    data: Json


@dataclass(slots=True)
class Played:
    """The rows, mails and verdicts after a case."""

    known: Known
    mails: list[FieldMail]
    outcomes: dict[str, str]
    """By event id, as in the ledger."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By event id: why an event is stale, waiting or dead. Only on the real store."""

    def customer(self, customer_id: str, account: str = "") -> Customer:
        return _found(self.known.customer(account, customer_id))

    def organization(self, customer_id: str, account: str = "") -> Organization:
        return _found(self.known.organization(account, customer_id))

    def subscription(self, subscription_id: str, account: str = "") -> Subscription:
        return _found(self.known.subscription(account, subscription_id))

    def payment(self, stripe_id: str, account: str = "") -> Payment:
        return _found(self.known.payment(account, stripe_id))

    def templates(self, customer_id: str | None = None) -> list[str]:
        """The templates of all mails, or of one customer's, in alphabetical order."""
        return sorted(mail.template for mail in self.mails if customer_id in (None, mail.customer_id))

    def mail(self, template: str) -> FieldMail:
        """The one mail with this template."""
        (mail,) = (mail for mail in self.mails if mail.template == template)
        return mail

    def timers(self, customer_id: str, account: str = "") -> dict[str, Timer]:
        """The customer's pending timers by kind."""
        timers = self.known.timers_of(account, customer_id, "")
        return {timer.kind: timer for timer in timers if timer.status is TimerStatus.PENDING}

    @property
    def dead(self) -> list[str]:
        return [event_id for event_id, outcome in self.outcomes.items() if outcome == "dead"]


Check = Callable[[Played], None]


@dataclass(frozen=True, slots=True)
class FieldCase:
    """Cases that are played one after another, and the function that checks the result."""

    numbers: tuple[str, ...]
    check: Check
    is_repaired: bool

    def __str__(self) -> str:
        return f"{'+'.join(self.numbers)}-{self.check.__name__}"


_REGISTERED: list[FieldCase] = []


def case(*numbers: str, repair: bool = False) -> Callable[[Check], Check]:
    """Registers the decorated function for a case, or for several cases that are played in this order.

    `repair`: `billing reconcile --objects --repair` runs after the events, with the answers in `….stripe.json`.
    """

    def register(check: Check) -> Check:
        _REGISTERED.append(FieldCase(numbers, check, repair))
        return check

    return register


def registered() -> list[FieldCase]:
    """Returns all cases of the modules in `expected/`."""
    from tests.field import expected  # its modules import this one

    for module in pkgutil.iter_modules(expected.__path__):
        importlib.import_module(f"{expected.__name__}.{module.name}")
    return sorted(_REGISTERED, key=str)


def events(number: str) -> list[Json]:
    """Returns the events of the case with this number, in the order of arrival. A part of a case is `90/a`."""
    case_number, _, part = number.partition("/")
    (file,) = CASES.glob(f"{case_number}-*{part}.jsonl")
    return [orjson.loads(line) for line in file.read_bytes().splitlines() if line.strip()]


def repairs(number: str) -> list[Json]:
    """Returns the events of `billing reconcile --objects --repair`, made at NOW from Stripe's answers."""
    (file,) = CASES.glob(f"{number}-*.stripe.json")
    listed = orjson.loads(file.read_bytes())
    return [
        refetched_event(
            f"reconcile:{answer['id']}",
            answer,
            at=NOW,
            account="",
            livemode=False,
            api_version=None,
            request_id=None,
        )
        for answer in (listed if isinstance(listed, list) else [listed])
    ]


def steps(field_case: FieldCase) -> Iterator[tuple[list[Json], Source]]:
    """Yields the events to process, in order. Due timers fire after each step."""
    for number in field_case.numbers:
        yield events(number), Source.STRIPE
        if field_case.is_repaired:
            yield repairs(number), Source.RECONCILE


_OFFSETS = itertools.count()


def record(event: Json, source: Source) -> Record:
    headers = RecordHeaders(event["id"], event["type"], source, event.get("account") or "", False, "", "default", NOW)
    return record_of("events", 0, next(_OFFSETS), b"key", orjson.dumps(event), headers.encode(), NOW.timestamp())


def due(timers: list[Timer]) -> Json | None:
    """Returns the event of the timer that fires first up to NOW; None if no timer is due."""
    pending = [timer for timer in timers if timer.status is TimerStatus.PENDING and timer.due_at <= NOW]
    first = min(pending, key=lambda timer: (timer.due_at, timer.timer_key), default=None)
    return timer_event(first) if first is not None else None


def play(field_case: FieldCase) -> Played:
    """Plays a case in memory."""
    fold = Fold(CONFIG, RULES)
    for step, source in steps(field_case):
        for event in step:
            fold.take(record(event, source))
        fold.settle()
        while (fired := due(fold.known.changed(Timer)[0])) is not None:
            fold.take(record(fired, Source.TIMER))
    return Played(
        known=fold.known,
        mails=[field_mail(mail) for _, mail in fold.orders[EMAILS].values() if isinstance(mail, QueueEmail)],
        outcomes={event_id: judged.outcome for event_id, judged in fold.ledger.items()},
    )


def field_mail(mail: QueueEmail) -> FieldMail:
    read_mail(mail.template, mail.data)
    return FieldMail(mail.key, mail.template, mail.customer_id, mail.recipient, dict(mail.data))


def _found(row: R | None) -> R:
    assert row is not None
    return row
