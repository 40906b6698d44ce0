"""Extracts the fact from one record of `billing.events`. Most event types have none.

Contents of `Fact.data` by kind:
- subscription: `{status, currency, rates: [[price id, MRR as an exact fraction], …]}`; `latest`, its latest invoice;
  `was` and `rates_were`, what it replaced of them (same_second.py); `since` if it was imported (imported.py). If there
  are any: `discounts`, their ids, and `item_discounts`, by price; `terms`, a list (schemas/stripe/discount.py);
  `per_month`, invoices a month if not 1; `usage`, the ids of prices that are billed by usage or tiers
- invoice: the fields of Stripe's invoice that are needed, in a form that schemas/stripe/invoice.py reads, and `billed`
  if it was imported: what its lines say about the past (imported.py). Of a paid one also `discounted`: amounts before
  and off, by discount, and `by_price`: what was billed, by price
- purchase: `{currency, amount, invoice}`; of one that is captured later, under its payment intent: with `is_pending`
  by its checkout, with `is_captured` by the intent
- refund: `{currency, amount, before}`: the sum of the charge's refunds, now and before this event if it says so;
  `{currency, amount, is_failed}` for one refund, by which invoices.py sees whether the charge had counted it
- discount: `{terms, own, has_ended}`: a list; the ids of the customer's own discounts, None if it does not say them;
  if it has ended, it is not one of them any more
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import ValidationError

from analytics.rates import TooMuchMoney, invoices_a_month, monthly_rate
from schemas.errors import MalformedEvent
from schemas.figures import Fact, FactKind
from schemas.ordering import ordering_key
from schemas.record import IMPORT_PREFIX
from schemas.statuses import SubscriptionStatus
from schemas.stripe.billed_lines import billed_by_price, billed_lines, discounted
from schemas.stripe.billed_subscription import BilledSubscription
from schemas.stripe.charge import StripeCharge
from schemas.stripe.checkout_session import CheckoutSession
from schemas.stripe.discount import discounts_of, terms_of
from schemas.stripe.fields import child, listed
from schemas.stripe.invoice import StripeInvoice
from schemas.stripe.payment_intent import StripePaymentIntent
from schemas.stripe.refund import LOST, StripeRefund
from streams.decode import EventSummary, decode
from streams.rules.catalog import RULES
from streams.rules.precedence import SUBSCRIPTION_DELETED

FactData = tuple[str, Mapping[str, Any]]
"""The subject and the data of a fact."""

_BY_INTENT = frozenset({"is_pending", "is_captured"})
_PREFIX = "customer.subscription."
_CREATED_TYPE = "customer.subscription.created"
_ENDED_TYPE = "customer.subscription.deleted"
_COUNTED = frozenset({"status", "items", "plan", "quantity", "pause_collection"})
"""Fields on which the MRR depends."""
_CUSTOMER_TYPES = ("customer.created", "customer.updated")
_NOT_THE_CUSTOMERS = ("subscription", "subscription_item", "invoice", "invoice_item", "checkout_session")
"""A discount that names one of these is not the customer's own, which counts for all subscriptions."""


@dataclass(frozen=True, slots=True)
class FactReader:
    """How an event type becomes a fact. `read` returns None if the event contains no fact."""

    kind: FactKind
    rank: int
    read: Callable[[str, Mapping[str, Any], Mapping[str, Any]], FactData | None]
    """Takes the event's type, `data.object` and `data.previous_attributes`."""


def fact_of(value: bytes | None) -> Fact | None:
    """Returns the fact in one event, or None if it has none. Raises MalformedEvent."""
    envelope = decode(value, {}).envelope
    reader = TELLERS.get(envelope.type)
    if reader is None:
        return None
    raw = orjson.loads(value or b"")
    obj = _object_of(raw)
    if envelope.created is None or obj is None:
        raise MalformedEvent("an event without a time or an object")
    try:
        found = reader.read(envelope.type, obj, child(raw["data"], "previous_attributes"))
        if found is not None and _is_imported(envelope.id):
            found = found[0], {**found[1], **_history(reader.kind, envelope, obj, found[1])}
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise MalformedEvent(f"data.object.{where}") from None
    except (TooMuchMoney, ValueError) as error:
        raise MalformedEvent(str(error)) from None
    if found is None:
        return None
    subject, data = found
    return Fact(
        event_id=envelope.id,
        account=envelope.account,
        livemode=envelope.livemode,
        # A guest's checkout has an address, and its intent has none: they meet under the intent's id.
        owner=envelope.customer_id or _digest(ordering_key(raw) if _BY_INTENT.isdisjoint(data) else subject),
        kind=reader.kind,
        subject=subject,
        created=_happened_at(envelope, obj),
        rank=reader.rank,
        data=data,
    )


def _is_imported(event_id: str) -> bool:
    return event_id.startswith(f"{IMPORT_PREFIX}_")


def _history(kind: FactKind, envelope: EventSummary, obj: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What an imported object says about the time before it was read."""
    if kind is FactKind.INVOICE_PAID:
        billed = billed_lines(obj, data["subscription"])
        return {
            "billed": [
                [line.start, line.item_id, line.is_whole]
                + ([line.item.price_id, str(monthly_rate(line.item))] if line.item is not None else [])
                for line in billed
            ]
        }
    if kind is not FactKind.SUBSCRIPTION or (envelope.type != _CREATED_TYPE and _has_ended(obj)):
        return {}
    is_canceled = data["status"] == SubscriptionStatus.CANCELED  # it earned until then; another fact has the end
    status = str(SubscriptionStatus.ACTIVE) if is_canceled else data["status"]
    return {"since": int(_earns_since(obj, until=_created(envelope)).timestamp()), "status": status}


def _created(envelope: EventSummary) -> datetime:
    return (envelope.created or datetime.fromtimestamp(0, UTC)).replace(microsecond=0)


def _has_ended(obj: Mapping[str, Any]) -> bool:
    return _whole(obj.get("ended_at")) is not None


def _earns_since(obj: Mapping[str, Any], *, until: datetime) -> datetime:
    """When an imported subscription began to earn: at its start or its trial's end."""
    began = [at for name in ("start_date", "trial_end") if (at := _whole(obj.get(name))) is not None]
    past = [at for at in began if _has_ended(obj) or at <= int(until.timestamp())]
    return datetime.fromtimestamp(max(past), UTC) if past else until


def _happened_at(envelope: EventSummary, obj: Mapping[str, Any]) -> datetime:
    """When the fact became true. An imported subscription that has ended earned from its start until its end, and an
    imported customer has had the discount since it began."""
    if not _is_imported(envelope.id):
        return _created(envelope)
    if envelope.type in _CUSTOMER_TYPES and (began := _whole(child(obj, "discount").get("start"))) is not None:
        return min(datetime.fromtimestamp(began, UTC), _created(envelope))
    if not envelope.type.startswith(_PREFIX) or not _has_ended(obj):
        return _created(envelope)
    if envelope.type != _CREATED_TYPE:
        return datetime.fromtimestamp(_whole(obj.get("ended_at")) or 0, UTC)
    return _earns_since(obj, until=_created(envelope))


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def is_counted(type_: str) -> bool:
    """Whether events of this type can contain a fact. Checked with the record's header, before it is decoded."""
    return type_ in TELLERS


def _object_of(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    data = raw.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    return obj if isinstance(obj, dict) else None


def _digest(key: str) -> str:
    # The ordering key of a guest is an e-mail address, which must not be stored in the figures.
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _subscription(type_: str, obj: Mapping[str, Any], previous: Mapping[str, Any]) -> FactData:
    subscription = BilledSubscription.model_validate(obj)
    said = _counted(type_, subscription)
    changed = _replaced(type_, obj, previous, said) if _COUNTED & previous.keys() else {}
    said = {**said, "currency": subscription.currency}
    said |= {"latest": subscription.latest_invoice} if subscription.latest_invoice is not None else {}
    per_month = str(invoices_a_month(subscription.items[0])) if subscription.items else "1"
    extra = {
        "discounts": [*subscription.discounts],
        "item_discounts": {item.price_id: [*item.discounts] for item in subscription.items if item.discounts},
        "terms": [*subscription.terms],
        "per_month": per_month if per_month != "1" else None,
        "usage": [item.price_id for item in subscription.items if item.is_usage],
    }
    return subscription.id, said | changed | {name: value for name, value in extra.items() if value}


def _counted(type_: str, subscription: BilledSubscription) -> dict[str, Any]:
    status = SubscriptionStatus.CANCELED if type_ == _ENDED_TYPE else subscription.status
    if not subscription.is_collecting and status in (SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE):
        status = SubscriptionStatus.PAUSED
    return {
        "status": str(status),
        "rates": [[item.price_id, str(monthly_rate(item))] for item in subscription.items],
    }


def _replaced(
    type_: str, obj: Mapping[str, Any], previous: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """What an update replaced. Stripe does not promise the shape of these differences."""
    try:
        former = _counted(type_, BilledSubscription.model_validate({**obj, **previous, "items": _items(obj, previous)}))
    except (ValueError, TooMuchMoney):  # pydantic's errors included
        return {}
    was = {"was": former["status"]} if former["status"] != said["status"] else {}
    return was | ({"rates_were": former["rates"]} if sorted(former["rates"]) != sorted(said["rates"]) else {})


def _items(obj: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """The list of items before an update, which may name only what it changed of each."""
    items, former = listed(obj, "items"), listed(previous, "items")
    if len(former) == len(items):
        former = [{**item, **one} for item, one in zip(items, former, strict=True)]
    elif not former and len(items) == 1 and type(previous.get("quantity")) is int:
        former = [{**items[0], "quantity": previous["quantity"]}]
    return {"data": former or items}


def _discount(type_: str, obj: Mapping[str, Any], _previous: Mapping[str, Any]) -> FactData:
    terms = terms_of(obj)
    if terms is None:
        raise ValueError("a discount without an id and an owner")
    has_ended = type_ == "customer.discount.deleted"
    own = [terms["id"]] if not has_ended and all(obj.get(name) is None for name in _NOT_THE_CUSTOMERS) else None
    return terms["id"], {"terms": [terms], "own": own, "has_ended": has_ended}


def _customer(_type: str, obj: Mapping[str, Any], previous: Mapping[str, Any]) -> FactData | None:
    """Their discount, if the event is about it, or says what was before the other events arrived."""
    id_ = obj.get("id")
    if not isinstance(id_, str):
        raise ValueError("id: not a text")  # noqa: TRY004  # fact_of expects a ValueError about the content
    if obj.get("discount") is None and "discount" not in previous:
        return None
    own, terms = discounts_of({"discount": obj.get("discount")})
    return id_, {"terms": terms, "own": own}


def _paid_invoice(type_: str, obj: Mapping[str, Any], previous: Mapping[str, Any]) -> FactData | None:
    found = _invoice(type_, obj, previous)
    if found is None:
        return None
    invoice_id, data = found
    extra = {"discounted": discounted(obj), "by_price": billed_by_price(obj, data["subscription"])}
    return invoice_id, {**data, **{name: value for name, value in extra.items() if value}}


def _invoice(_type: str, obj: Mapping[str, Any], _previous: Mapping[str, Any]) -> FactData | None:
    invoice = StripeInvoice.model_validate(obj)
    if invoice.id is None:
        return None
    # One shape for all API versions. The single line preserves `bills_subscription`.
    data: dict[str, Any] = {
        "id": invoice.id,
        "subscription": invoice.subscription,
        "billing_reason": invoice.billing_reason,
        "collection_method": invoice.collection_method,
        "currency": invoice.currency,
        "amount_due": invoice.amount_due,
        "amount_paid": invoice.amount_paid,
        "attempt_count": invoice.attempt_count,
        "next_payment_attempt": int(at.timestamp()) if (at := invoice.next_payment_attempt) else None,
        "status_transitions": {"paid_at": int(at.timestamp()) if (at := invoice.paid_at) else None},
        "lines": {"data": [{"type": "subscription", "amount": int(invoice.bills_subscription)}]},
    }
    return invoice.id, data


def _purchase(_type: str, obj: Mapping[str, Any], _previous: Mapping[str, Any]) -> FactData | None:
    session = CheckoutSession.model_validate(obj)
    if session.mode != "payment" or not session.amount_total or session.currency is None:
        return None
    data = {"currency": session.currency, "amount": session.amount_total, "invoice": session.invoice}
    if session.creates_invoice and session.invoice is None:
        return None  # its invoice, which it does not name yet, has facts of its own
    if session.is_paid:
        return session.id, data
    return (session.payment_intent, {**data, "is_pending": True}) if session.payment_intent is not None else None


def _captured(_type: str, obj: Mapping[str, Any], _previous: Mapping[str, Any]) -> FactData | None:
    """Nothing else reports that a purchase with manual capture is paid. It counts with its checkout only."""
    intent = StripePaymentIntent.model_validate(obj)
    amount = intent.amount if intent.amount_received is None else intent.amount_received
    if not intent.is_captured_manually or intent.invoice is not None or not amount:
        return None
    return intent.id, {"currency": intent.currency, "amount": amount, "invoice": None, "is_captured": True}


def _one_refund(type_: str, obj: Mapping[str, Any], _previous: Mapping[str, Any]) -> FactData:
    """Its charge has no event for its failure. Refunds do not name the customer, so they have the charge as owner."""
    refund = StripeRefund.model_validate(obj)
    is_failed = refund.status in LOST or type_ == "refund.failed"
    # 0: the version before takes each fact that is not a failure for the sum of a charge.
    amount = refund.amount if is_failed else 0
    return refund.id, {"currency": refund.currency, "amount": amount, "is_failed": is_failed}


def _refund(_type: str, obj: Mapping[str, Any], previous: Mapping[str, Any]) -> FactData | None:
    charge = StripeCharge.model_validate(obj)
    if charge.source_transfer is not None:
        return None  # the other side of a transfer: the platform's charge is refunded, and counted, once
    before = _whole(previous.get("amount_refunded"))
    return charge.id, {"currency": charge.currency, "amount": charge.amount_refunded, "before": before}


TELLERS: dict[str, FactReader] = {
    **{
        type_: FactReader(FactKind.SUBSCRIPTION, RULES[type_].rank, _subscription)
        for type_ in RULES
        if type_.startswith(_PREFIX)
    },
    # Before what is said about subscriptions in the same second.
    "customer.created": FactReader(FactKind.DISCOUNT, 1, _customer),
    "customer.updated": FactReader(FactKind.DISCOUNT, 1, _customer),
    "customer.discount.created": FactReader(FactKind.DISCOUNT, 2, _discount),
    "customer.discount.updated": FactReader(FactKind.DISCOUNT, 2, _discount),
    "customer.discount.deleted": FactReader(FactKind.DISCOUNT, 3, _discount),
    "invoice.paid": FactReader(FactKind.INVOICE_PAID, RULES["invoice.paid"].rank, _paid_invoice),
    "invoice.payment_succeeded": FactReader(FactKind.INVOICE_PAID, RULES["invoice.paid"].rank, _paid_invoice),
    "invoice.payment_failed": FactReader(FactKind.INVOICE_FAILED, RULES["invoice.payment_failed"].rank, _invoice),
    "invoice.voided": FactReader(FactKind.INVOICE_GIVEN_UP, SUBSCRIPTION_DELETED, _invoice),
    "invoice.marked_uncollectible": FactReader(FactKind.INVOICE_GIVEN_UP, SUBSCRIPTION_DELETED, _invoice),
    "checkout.session.completed": FactReader(FactKind.PURCHASE, 50, _purchase),
    "checkout.session.async_payment_succeeded": FactReader(FactKind.PURCHASE, 50, _purchase),
    "payment_intent.succeeded": FactReader(FactKind.PURCHASE, 50, _captured),
    "charge.refunded": FactReader(FactKind.REFUND, 50, _refund),
    "refund.created": FactReader(FactKind.REFUND, 20, _one_refund),
    "charge.refund.updated": FactReader(FactKind.REFUND, 49, _one_refund),
    "refund.updated": FactReader(FactKind.REFUND, 50, _one_refund),
    "refund.failed": FactReader(FactKind.REFUND, 60, _one_refund),
}
"""Readers by event type. To count another event type, add a line here."""
