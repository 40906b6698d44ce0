"""State in memory for tests of rules: takes events as Stripe sends them, and contains the resulting rows and mails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from sqlalchemy import UniqueConstraint

from local.stripe.builder import ApiShape, Json, StripeEvents
from schemas.effects import CallStripe, Effect, QueueEmail, QueueNotification, Save
from schemas.event import Event
from schemas.known import Known
from schemas.mail import read_mail
from schemas.settings import Config, Plan
from schemas.state import ROW_TYPES, Customer, Membership, Organization, Payment, Row, Subscription, Timer, User
from schemas.statuses import TimerStatus
from sinks.postgres.tables import STATE_TABLES
from streams import apply as streams_apply
from streams.apply import apply
from streams.decode import decode
from streams.feed import notifications
from streams.rules.catalog import RULES, rule_of
from streams.rules.registry import Rule

CONFIG = Config(
    plans={
        "free": Plan(name="Free", limits={"seats": 1}),
        "pro": Plan(name="Pro", prices=("price_pro",), limits={"seats": 5}),
        "team": Plan(name="Team", prices=("price_team",), limits={"seats": 50}),
    }
)

MAKERS = [StripeEvents(ApiShape.OLD), StripeEvents(ApiShape.NEW)]
"""For `parametrize`: each behaviour is tested in both API shapes."""

R = TypeVar("R", bound=Row)

NOW = 1_800_000_000
DAY = 86_400


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def read(event: Json) -> tuple[Event[Any], Rule]:
    """The event as the worker reads it, with its rule."""
    return _read(orjson.dumps(event))


def forget_events() -> None:
    """Forgets the events that were read: for tests that change how they are read."""
    _read.cache_clear()


@lru_cache(maxsize=2048)
def _read(content: bytes) -> tuple[Event[Any], Rule]:
    """Tests apply the same events in hundreds of orders. A rule that changed its event would differ between them."""
    decoded = decode(content, RULES)
    assert decoded.rule is not None, f"no rule for {decoded.envelope.type}"
    assert decoded.event is not None
    return decoded.event, decoded.rule


def decide(event: Json, known: Known | None = None) -> list[Effect]:
    """The effects ordered by the event's rule, without applying them."""
    read_event, rule = read(event)
    return decide_with(rule, read_event, known or Known(CONFIG))


def decide_with(rule: Rule, event: Event[Any], known: Known) -> list[Effect]:
    """The rule's effects. Raises NotReferred for a row that its `refer` does not name, as in the worker."""
    return streams_apply.decide(rule, event, known, rule.refer(event))


def saved_rows(effects: Iterable[Effect], kind: type[R]) -> list[R]:
    """The rows of one type that the effects save."""
    return [effect.row for effect in effects if isinstance(effect, Save) and isinstance(effect.row, kind)]


def unique_columns(kind: type[Row]) -> list[tuple[str, ...]]:
    """The columns of the unique constraints of the type's table, without its primary key."""
    constraints = [one for one in STATE_TABLES[kind].constraints if isinstance(one, UniqueConstraint)]
    return sorted((tuple(str(column.name) for column in one.columns) for one in constraints), reverse=True)


UNIQUE = [(kind, columns) for kind in ROW_TYPES for columns in unique_columns(kind)]


def check_unique(known: Known, kinds: Container[type[Row]] = ROW_TYPES) -> None:
    """Raises AssertionError for rows of `kinds` that the store would refuse. Null equals nothing, as in Postgres."""
    for kind, columns in UNIQUE:
        if kind not in kinds:
            continue
        values = [tuple(getattr(row, name) for name in columns) for row in known.changed(kind)[0]]
        twice = [value for value, count in Counter(values).items() if count > 1 and None not in value]
        assert not twice, f"two rows of {kind.__name__} have the same {', '.join(columns)}: {twice}"


@dataclass(slots=True)
class RulesWorld:
    """The rows, mails and calls after any number of events. Each mail is checked against its model."""

    config: Config = CONFIG
    known: Known = field(init=False)
    emails: dict[str, QueueEmail] = field(default_factory=dict)
    calls: dict[str, CallStripe] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    notifications: dict[str, QueueNotification] = field(default_factory=dict)
    """By key, in the order in which they were queued. Only with a feed in the config."""

    def __post_init__(self) -> None:
        self.known = Known(self.config)

    def apply(self, *events: Json) -> RulesWorld:
        for event in events:
            read_event, rule = read(event)
            effects = decide_with(rule, read_event, self.known)
            outcome = apply(effects, read_event, self.known)
            changes = notifications(read_event, outcome, self.known)
            for order in apply(changes, read_event, self.known).orders:
                assert isinstance(order, QueueNotification)
                self.notifications.setdefault(order.key, order)
            check_unique(self.known, {type(effect.row) for effect in effects if isinstance(effect, Save)})
            for email in (order for order in outcome.orders if isinstance(order, QueueEmail)):
                read_mail(email.template, email.data)
                self.emails.setdefault(email.key, email)
            for call in (order for order in outcome.orders if isinstance(order, CallStripe)):
                self.calls.setdefault(call.key, call)
            if outcome.stale is not None:
                self.stale.append(read_event.id)
        return self

    def rows(self, kind: type[Row]) -> list[Any]:
        return self.known.changed(kind)[0]  # nothing was stored before, so every row is a changed row

    def customer(self, id_: str = "cus_1", account: str = "") -> Customer:
        row = self.known.customer(account, id_)
        assert row is not None
        return row

    def organization(self, customer: str = "cus_1", account: str = "") -> Organization:
        row = self.known.organization(account, customer)
        assert row is not None
        return row

    def subscription(self, id_: str = "sub_1", account: str = "") -> Subscription:
        row = self.known.subscription(account, id_)
        assert row is not None
        return row

    def payment(self, id_: str = "in_1", account: str = "") -> Payment:
        row = self.known.payment(account, id_)
        assert row is not None
        return row

    def admins(self, customer: str = "cus_1") -> list[str]:
        organization = self.organization(customer).organization_id
        members: list[Membership] = self.rows(Membership)
        return [m.user_id for m in members if m.organization_id == organization and m.role == "ADMIN"]

    def pending(self) -> dict[str, Timer]:
        timers: list[Timer] = self.rows(Timer)
        return {timer.timer_key: timer for timer in timers if timer.status is TimerStatus.PENDING}

    def templates(self) -> list[str]:
        return sorted(email.template for email in self.emails.values())

    def data(self, template: str) -> dict[str, Any]:
        """The data of the one mail with this template."""
        (email,) = (email for email in self.emails.values() if email.template == template)
        return dict(email.data)

    def state(self) -> dict[str, Any]:
        """The state that must be equal for every order of the same events."""
        kinds: list[type[Row]] = [Customer, Organization, User, Membership, Subscription, Payment]
        rows: dict[str, Any] = {kind.__name__: {row.key: row for row in self.rows(kind)} for kind in kinds}
        timers = {key: (timer.due_at, dict(timer.data)) for key, timer in self.pending().items()}
        return rows | {"pending timers": timers}


def by_version(events: Iterable[Json]) -> list[Json]:
    """The events in the order in which they happened: by `created` and rank of the type, else as they are."""

    def happened(event: Json) -> tuple[int, int]:
        rule = rule_of(event["type"])
        assert rule is not None
        return (event["created"], rule.rank)

    return sorted(events, key=happened)


def mail_counts(keys: Iterable[str]) -> Counter[str]:
    """The number of mails by key. Those about changes of plan are counted per subscription: their keys are numbers."""
    return Counter(key.rpartition(":")[0] if key.startswith("plan-changed:") else key for key in keys)
