"""Makes the events of a life, plays them in an order, and reads what is stored."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, Price, StripeEvents
from schemas.effects import SETTLE_A_TIE
from schemas.known import Known
from schemas.refetch import refetched_event
from streams.rules.catalog import rule_of
from streams.rules.customers.cancellation import ERASE, WIN_BACK
from tests.field.harness import CONFIG
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import DAY, NOW

HOUR = 3600
FREE = Price("price_free", 0, "eur")
STARTER = Price("price_starter_monthly", 900, "eur")
PRO = Price("price_pro_monthly", 2900, "eur")
YEARLY = Price("price_pro_yearly", 29000, "eur", "year")
ADD_ON = Price("price_add_on", 500, "eur")
"""In no plan."""

ALONE: Mapping[str, Any] = {"subscription": None, "reason": "manual"}
"""An invoice without a subscription."""

MANUAL: Mapping[str, Any] = {"capture_method": "manual", "invoice": None}
"""The intent of a purchase that is captured later."""


@dataclass(frozen=True, slots=True)
class Life:
    """`expected` are values by `object.column`; times are seconds from NOW.

    `org_1` is the organization of `cus_1`; a payment is named by any of its ids; `acct_a/sub_1` belongs to an account.
    `mails` are the numbers of mails by template: exact in Stripe's order, and a maximum in any other.
    """

    name: str
    events: Sequence[Json]
    expected: Mapping[str, Any]
    mails: Mapping[str, int] = field(default_factory=dict)
    fires: Sequence[str] | None = (WIN_BACK, ERASE)
    """Kinds of timers that fire at the end; () is all, None is none."""
    needs_key: bool = False
    """Only Stripe knows the result, so without a key it may be another."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the events of one account in one API shape. `at` is in seconds from NOW."""

    shape: ApiShape
    account: str | None = None

    @property
    def make(self) -> StripeEvents:
        return StripeEvents(self.shape, account=self.account)

    def of(self, at: int, kind: str, made: Json, previous: Json | None = None) -> Json:
        return self.make.event(kind, made, NOW + at, previous=previous)

    def sub(self, at: int, status: str, kind: str = "updated", previous: Json | None = None, **more: Any) -> Json:
        id_ = more.pop("id_", "sub_1")
        made = self.make.subscription(
            id_, status=status, **{"start": NOW, "price": PRO, "latest_invoice": "in_1", **more}
        )
        return self.of(at, f"customer.subscription.{kind}", made, previous)

    def renewed(self, at: int, status: str, previous: Json, **more: Any) -> Json:
        """Return an update in the second period, whose invoice is in_2."""
        period = {"start": NOW + 30 * DAY, "created": NOW, "latest_invoice": "in_2"}
        return self.sub(at, status, previous=previous, **{**period, **more})

    def ended(self, at: int, reason: str | None = None, **more: Any) -> Json:
        details = {"reason": reason, "comment": None, "feedback": None}
        ends = {"ended_at": NOW + at, "canceled_at": NOW + at, "cancellation_details": details}
        return self.sub(at, "canceled", "deleted", **{**ends, **more})

    def inv(self, at: int, kind: str, id_: str | None = "in_1", created: int = 0, **more: Any) -> Json:
        previous = more.pop("previous", None)
        made = self.make.invoice(id_, **{"price": PRO, "created": NOW + created, **more})
        return self.of(at, f"invoice.{kind}", made, previous)

    def paid(self, at: int, id_: str = "in_1", **more: Any) -> Json:
        return self.inv(at, "paid", id_, status="paid", paid_at=NOW + at, **more)

    def failed(self, at: int, attempts: int = 1, retry: int | None = 3, **more: Any) -> Json:
        next_attempt = None if retry is None else NOW + at + retry * DAY
        return self.inv(at, "payment_failed", attempts=attempts, next_attempt=next_attempt, **more)

    def declined(self, at: int) -> list[Json]:
        """Return the first decline of in_1, with the change of status that it brings."""
        return [self.failed(at), self.sub(at, "past_due", previous={"status": "active"})]

    def customer(self, at: int, kind: str, previous: Json | None = None, **more: Any) -> Json:
        return self.of(at, f"customer.{kind}", self.make.customer(created=NOW, **more), previous)

    def charge(self, at: int, kind: str, id_: str = "ch_1", **more: Any) -> Json:
        return self.of(at, f"charge.{kind}", pay.charge(self.make, id_, **more))

    def intent(self, at: int, kind: str, id_: str = "pi_1", **more: Any) -> Json:
        return self.of(at, f"payment_intent.{kind}", pay.payment_intent(self.make, id_, **more))

    def part(self, at: int, number: int = 1, **more: Any) -> Json:
        """Return `invoice_payment.paid` of the invoice's part with this number, paid by the intent of that number."""
        link = pay.invoice_payment(self.make, f"inpay_{number}", payment_intent=f"pi_{number}", **more)
        return self.of(at, "invoice_payment.paid", link)

    def method(self, at: int, kind: str, id_: str = "pm_1", previous: Json | None = None, **more: Any) -> Json:
        made = pay.payment_method(self.make, id_, created=NOW, **more)
        return self.of(at, f"payment_method.{kind}", made, previous)

    def refund(self, at: int, kind: str, id_: str = "re_1", **more: Any) -> Json:
        return self.of(at, f"refund.{kind}", pay.refund(self.make, id_, **more))

    def dispute(self, at: int, kind: str, created: int, id_: str = "dp_1", due: int | None = None, **more: Any) -> Json:
        due_by = None if due is None else NOW + due
        previous = more.pop("previous", None)
        made = pay.dispute(self.make, id_, created=NOW + created, due_by=due_by, **more)
        return self.of(at, f"charge.dispute.{kind}", made, previous)

    def note(self, at: int, kind: str = "created", created: int | None = None, **more: Any) -> Json:
        made = pay.credit_note(self.make, created=NOW + (at if created is None else created), **more)
        return self.of(at, f"credit_note.{kind}", made)

    def session(self, at: int, kind: str, payment: str, id_: str = "cs_1", **more: Any) -> Json:
        """Return an event of a one-time checkout, or of another `mode`."""
        made = self.make.checkout_session(id_, payment_status=payment, created=NOW, **{"mode": "payment", **more})
        return self.of(at, f"checkout.session.{kind}", made)

    def item(self, price: Price, usage: str = "licensed", quantity: int = 1) -> Json:
        made: Json = self.make.subscription(price=price, start=NOW)["items"]["data"][0]
        made |= {"id": f"si_{price.id}", "quantity": quantity}
        made["price"]["recurring"]["usage_type"] = usage
        if usage == "metered":
            del made["quantity"]
        return made


def second(m: Maker, at: int, status: str, kind: str = "updated", previous: Json | None = None, **more: Any) -> Json:
    """An event of a second subscription, sub_2, of the smaller plan."""
    given = {"id_": "sub_2", "price": STARTER, "latest_invoice": "in_2", "created": NOW + DAY, "start": NOW + DAY}
    return m.sub(at, status, kind, previous, **{**given, **more})


def items(*found: Json, has_more: bool = False) -> Json:
    return {"object": "list", "data": list(found), "has_more": has_more, "url": "/v1/subscription_items"}


def orders(life: Life, count: int) -> Iterator[list[Json]]:
    """Yields Stripe's order, its reverse and random ones with repeats. Each has other event ids, so no id decides."""
    chance = random.Random(life.name)
    events = list(life.events)
    shuffled = (chance.sample([*events, *chance.choices(events, k=2)], len(events) + 2) for _ in range(count))
    for order in itertools.chain([events, events[::-1]], shuffled):
        ids = {event["id"]: f"evt_{chance.randrange(10**9):09}" for event in events}
        yield [event | {"id": ids[event["id"]]} for event in order]


def play(life: Life, order: Sequence[Json], *, has_key: bool) -> PatientWorld:
    """Plays the events. With a key, Stripe answers with what the last event of an object shows."""
    world = PatientWorld(CONFIG).apply(*(event for event in order if rule_of(event["type"]) is not None))
    if has_key:
        _answer(world, life)
    world.fire(*AT_ONCE)
    if life.fires is not None:
        world.fire(*life.fires, until=NOW + 60 * DAY)
    return world


def _answer(world: PatientWorld, life: Life) -> None:
    present = {(event.get("account") or "", event["data"]["object"].get("id")): event for event in life.events}
    at = datetime.fromtimestamp(max(event["created"] for event in life.events) + 60, UTC)
    for call in [call for call in world.calls.values() if call.purpose == SETTLE_A_TIE]:
        event = present[call.account, call.path.rpartition("/")[2]]
        answer = event["data"]["object"]
        version = event["api_version"]
        world.apply(
            refetched_event(
                call.key, answer, at=at, account=call.account, livemode=False, api_version=version, request_id=None
            )
        )


def seen(known: Known, life: Life) -> dict[str, Any]:
    """Returns what is stored of the expected values."""
    return {name: _stored(known, name) for name in life.expected}


def _stored(known: Known, name: str) -> Any:
    path, _, column = name.rpartition(".")
    account, _, id_ = path.rpartition("/")
    kind, _, number = id_.partition("_")
    row: Any = None
    match kind:
        case "sub":
            row = known.subscription(account, id_)
        case "org":
            row = known.organization(account, f"cus_{number}")
        case "cus":
            row = known.customer(account, id_)
        case "dp":
            row = known.dispute(account, id_)
        case _:
            row = known.payment(account, id_)
    value = getattr(row, column, None) if row is not None else "no row"
    return int(value.timestamp()) - NOW if isinstance(value, datetime) else value
