"""The objects of one Stripe account, and the events about them."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.stripe.builder import ApiShape
from local.stripe.simulator.render import differences, rendered

Json = dict[str, Any]

HOUR_S = 3600
DAY_S = 86_400

UPDATED = {
    "charge": "charge.updated",
    "checkout.session": "checkout.session.updated",
    "credit_note": "credit_note.updated",
    "customer": "customer.updated",
    "dispute": "charge.dispute.updated",
    "invoice": "invoice.updated",
    "payment_intent": "payment_intent.updated",
    "payment_method": "payment_method.updated",
    "refund": "refund.updated",
    "subscription": "customer.subscription.updated",
    "subscription_schedule": "subscription_schedule.updated",
}
"""`object` → the type of the event that reports a change of it."""

SINCE_BASIL = ("invoice_payment.",)
"""Event types that older API versions do not have."""


class SimulatedClock:
    """A test clock, in seconds since the epoch. Tasks of one second run in the order in which they were set."""

    def __init__(self, now: int) -> None:
        self.now = now
        self._tasks: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, moment: int, task: Callable[[], None]) -> None:
        """Runs the task once the clock reaches the moment; never in the past."""
        self._count += 1
        heapq.heappush(self._tasks, (max(moment, self.now), self._count, task))

    def advance(self, seconds: int) -> None:
        """Moves the clock and runs what becomes due on the way."""
        end = self.now + seconds
        while self._tasks and self._tasks[0][0] <= end:
            due, _, task = heapq.heappop(self._tasks)
            self.now = max(self.now, due)
            task()
        self.now = max(self.now, end)


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """One event, with the object as it was then. `before` is the object before the change, if it was one."""

    id: str
    type: str
    created: int
    account: str
    after: bytes
    before: bytes | None
    request: str | None

    def is_in(self, shape: ApiShape) -> bool:
        """Returns whether this API version has the type."""
        return shape is ApiShape.NEW or not self.type.startswith(SINCE_BASIL)

    def render(self, shape: ApiShape = ApiShape.NEW, *, livemode: bool = False) -> Json:
        """Returns the event as an endpoint of this API version gets it."""
        obj = rendered(orjson.loads(self.after), shape)
        data: Json = {"object": obj}
        if self.before is not None:
            data["previous_attributes"] = differences(rendered(orjson.loads(self.before), shape), obj)
        event: Json = {
            "id": self.id,
            "object": "event",
            "api_version": str(shape),
            "created": self.created,
            "data": data,
            "livemode": livemode,
            "pending_webhooks": 1,
            "request": {"id": self.request, "idempotency_key": None},
            "type": self.type,
        }
        return event | ({"account": self.account} if self.account else {})


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """The settings of an account that decide how failed payments end, as in Stripe's dashboard."""

    retries_days: Sequence[int] = (3, 5, 7)
    """Days between one failed attempt and the next."""
    after_retries: str = "cancel"
    """`cancel`, `unpaid` or `past_due`: the result for the subscription after the last attempt."""
    unpaid_invoice: str = "open"
    """`open` or `uncollectible`: the result for the invoice after the last attempt."""


@dataclass(slots=True)
class Books:
    """The objects of one account. `account` is '' for the platform's own."""

    clock: SimulatedClock
    account: str = ""
    seed: str = "0"
    settings: AccountSettings = field(default_factory=AccountSettings)
    objects: dict[str, dict[str, Json]] = field(default_factory=lambda: defaultdict(dict))
    """By `object` and id."""
    owned: dict[tuple[str, str | None], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids by `object` and the customer that an object was created for."""
    events: list[StripeEvent] = field(default_factory=list)
    """In the order in which they happened."""
    event_places: dict[str, int] = field(default_factory=dict)
    """Where an event is in `events`, by its id. Ids of events that were taken back stay: see `event_place`."""
    watchers: dict[str, Callable[[Json], None]] = field(default_factory=dict)
    """By the id of a payment intent: what to do once it has succeeded or failed."""
    hooks: dict[str, Callable[[Books, Json], None]] = field(default_factory=dict)
    """What the subscriptions do when an invoice of theirs is paid, failed, closed, overdue, or given up (stripe.py)."""
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def now(self) -> int:
        return self.clock.now

    def new_id(self, prefix: str) -> str:
        """Returns an id in no order, the same for the same seed."""
        self.counts[prefix] += 1
        text = f"{self.seed}/{self.account}/{prefix}/{self.counts[prefix]}"
        return f"{prefix}_{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}"

    def add(self, obj: Json) -> Json:
        self.objects[obj["object"]][obj["id"]] = obj
        self.owned[obj["object"], obj.get("customer")].append(obj["id"])
        return obj

    def of(self, kind: str, customer: str) -> list[Json]:
        """Returns the customer's objects of this kind, oldest first."""
        there = self.objects[kind]
        found = [there[id_] for id_ in self.owned[kind, customer] if id_ in there]
        return [obj for obj in found if obj.get("customer") == customer]

    def get(self, kind: str, id_: str) -> Json:
        """Raises KeyError."""
        return self.objects[kind][id_]

    def all(self, kind: str) -> list[Json]:
        return list(self.objects[kind].values())

    def find(self, id_: str) -> Json | None:
        """Returns the object with this id, of any kind."""
        return next((kind[id_] for kind in self.objects.values() if id_ in kind), None)

    def event_place(self, id_: str) -> int | None:
        """Returns where the event with this id is in `events`, None if there is none."""
        at = self.event_places.get(id_)
        return at if at is not None and at < len(self.events) and self.events[at].id == id_ else None

    def emit(self, type_: str, obj: Json, before: bytes | None = None) -> None:
        event_id, request = self.new_id("evt"), self.new_id("req")
        self.event_places[event_id] = len(self.events)
        self.events.append(StripeEvent(event_id, type_, self.now, self.account, orjson.dumps(obj), before, request))

    def notify(self, hook: str, invoice: Json) -> None:
        if invoice["_subscription"] and hook in self.hooks:
            self.hooks[hook](self, invoice)

    @contextmanager
    def change(self, obj: Json, type_: str = "") -> Iterator[Json]:
        """Emits one event if anything that Stripe shows of the object has changed at the end of the block."""
        before = orjson.dumps(obj)
        yield obj
        if _shown(orjson.loads(before)) != _shown(obj):
            self.emit(type_ or UPDATED[obj["object"]], obj, before)


def _shown(obj: Json) -> Json:
    return {name: value for name, value in obj.items() if not name.startswith("_")}


def listing(data: list[Json], url: str) -> Json:
    return {"object": "list", "data": data, "has_more": False, "total_count": len(data), "url": url}


def freeze(obj: Json) -> bytes:
    """Returns the object as it is now, for an event's `previous_attributes`."""
    return orjson.dumps(obj)
