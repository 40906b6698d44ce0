"""The rules for `payment_method.*` (behaviours.md C7). A detached method is never attached again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.effects import SET_DEFAULT_METHOD, CallStripe, Effect, FinishTimer, NoteStale, Save, StartTimer
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.references import References
from schemas.state import Customer, PaymentMethod
from schemas.stripe.payment_method import StripePaymentMethod
from schemas.timer import TimerDue, timer_event_type
from schemas.version import Version
from streams.rules import same_second, timers
from streams.rules.customers.account import customer_or_blank, save_customer_and_derived
from streams.rules.customers.default_method import with_default, without_default
from streams.rules.mails import mail
from streams.rules.payments import card_expiry
from streams.rules.payments.stream import stream
from streams.rules.precedence import is_older
from streams.rules.ties import ask_stripe

METHOD_DETACHED = "method-detached"

_STRIPE_FIELDS = ("type", "brand", "last4", "exp_month", "exp_year")

MethodEvent = Event[StripePaymentMethod]


@dataclass(frozen=True, slots=True)
class MethodChange:
    """The row after an event of a payment method, the effects so far, and the customer before the event."""

    row: PaymentMethod
    customer: Customer | None
    effects: list[Effect]

    def with_customer(self, known: Known) -> list[Effect]:
        """The effects, with the customer's row if the customer was not known before."""
        return self.effects if self.customer is None else self.effects + save_customer_and_derived(known, self.customer)


def refer(event: MethodEvent) -> References:
    method, customer_id = event.object, _customer_id(event)
    return References(
        customers={(event.account, customer_id)} if customer_id else set(),
        payment_methods={(event.account, method.id)},
        timers=card_expiry.timer_keys(event.account, method) | {_timer_key(event.account, method.id)},
        timers_of={(card_expiry.CARD_EXPIRING, method.id)},
    )


@stream.on("payment_method.attached", model=StripePaymentMethod, refer=refer, rank=20)
def on_attached(event: MethodEvent, known: Known) -> list[Effect]:
    """C7. Makes it the customer's default, here and at Stripe, unless a later default is known or it is detached."""
    changed = change(event, known)
    if changed.customer is None or not known.config.rules.set_default_payment_method:
        return changed.with_customer(known)
    method_id = event.object.id
    customer = with_default(known, changed.customer, method_id, event.version)
    effects = changed.effects + save_customer_and_derived(known, customer)
    is_default = customer.default_version == event.version and customer.default_payment_method == method_id
    if not is_default or customer.deleted_at is not None:
        return effects
    call = CallStripe(
        key=event.id,
        method="POST",
        path=f"/v1/customers/{customer.customer_id}",
        account=event.account,
        customer_id=customer.customer_id,
        params={"invoice_settings[default_payment_method]": method_id},
        purpose=SET_DEFAULT_METHOD,
    )
    return [*effects, call]


@stream.on(
    "payment_method.updated", "payment_method.automatically_updated", "payment_method.card_automatically_updated",
    model=StripePaymentMethod, refer=refer, rank=50,
)  # fmt: skip
def on_updated(event: MethodEvent, known: Known) -> list[Effect]:
    """C7. `card_automatically_updated` is the former name of `automatically_updated`."""
    return change(event, known).with_customer(known)


@stream.on("payment_method.detached", model=StripePaymentMethod, refer=refer, rank=90, terminal=True)
def on_detached(event: MethodEvent, known: Known) -> list[Effect]:
    return detach(event, known)


def change(event: MethodEvent, known: Known) -> MethodChange:
    """Applies an event to its row and sets the expiry timers."""
    method = event.object
    before = known.payment_method(event.account, method.id)
    row = _updated(before or PaymentMethod(account=event.account, payment_method_id=method.id), event)
    effects: list[Effect] = [] if row == before else [Save(row)]
    effects += card_expiry.remind(known, row, method)
    if before is not None and event.version < before.version:
        is_late = is_older(event.version, before.version)
        effects.append(NoteStale(f"{method.id} {'already has a newer version' if is_late else 'is detached'}"))
    if before is not None and _is_undecided(before, row, event):
        effects.append(ask_stripe(event, f"/v1/payment_methods/{method.id}", method.id, row.customer_id))
    customer = customer_or_blank(known, event.account, row.customer_id) if row.customer_id is not None else None
    return MethodChange(row, customer, effects)


def detach(event: MethodEvent, known: Known) -> list[Effect]:
    """C7. A timer that is due at once decides whether the customer needs a new method.

    A customer who replaces a card attaches the new one within the same second, and either event may come first. After
    both it is certain whether the customer has a method left.
    """
    changed = change(event, known)
    customer, method_id = changed.customer, event.object.id
    if customer is None:
        return changed.effects
    effects = changed.effects + save_customer_and_derived(known, without_default(customer, method_id))
    key = _timer_key(event.account, method_id)
    if known.timer(key) is None:
        effects.append(
            StartTimer(
                key=key,
                account=event.account,
                customer_id=customer.customer_id,
                kind=METHOD_DETACHED,
                subject=method_id,
                due_at=event.at,
            )
        )
    return effects


def refer_detached(event: Event[TimerDue]) -> References:
    references = timers.refer(event)
    references.payment_methods.add((event.account, event.object.subject))
    return references


@stream.on(timer_event_type(METHOD_DETACHED), model=TimerDue, refer=refer_detached)
def on_no_method_left(event: Event[TimerDue], known: Known) -> list[Effect]:
    """Asks the customer for a new method if the last default was detached and no other became the default."""
    if not timers.is_due(event, known):
        return []
    done = FinishTimer(event.object.timer_key)
    row = known.payment_method(event.account, event.object.subject)
    customer = known.customer(event.account, event.object.customer or "")
    if row is None or customer is None or customer.deleted_at is not None:
        return [done]
    if customer.default_payment_method is not None or customer.last_default != row.payment_method_id:
        return [done]
    data = {
        "brand": row.brand,
        "last4": row.last4,
        "type": row.type,
        "update_url": known.config.mail.update_payment_url,
    }
    return [done, mail("payment-method-detached", f"method-detached:{row.payment_method_id}", customer, data)]


def _customer_id(event: MethodEvent) -> str | None:
    return event.object.customer or event.customer_id


def _is_undecided(before: PaymentMethod, row: PaymentMethod, event: MethodEvent) -> bool:
    """Whether Stripe must settle the order. Only for payment methods, because Stripe has retired sources."""
    is_method = event.type.startswith("payment_method.")
    return is_method and row.newest != before.newest and same_second.is_undecided(row.newest.get("tied", ()))


def _updated(row: PaymentMethod, event: MethodEvent) -> PaymentMethod:
    method = event.object
    row = replace(row, customer_id=row.customer_id or _customer_id(event))  # a method never moves to another customer
    new = {"version": event.version, "previous": _previous(event), "facts": _shown(method)}
    found = same_second.settled(row.newest, row.version, _shown(row), new)
    if found is None:
        return row
    latest, newest = found
    detached_at = event.at if event.terminal else None
    return replace(row, **latest["facts"], detached_at=detached_at, newest=newest, version=Version(latest["version"]))


def _shown(method: PaymentMethod | StripePaymentMethod) -> dict[str, Any]:
    return {name: getattr(method, name) for name in _STRIPE_FIELDS}


def _previous(event: MethodEvent) -> dict[str, Any]:
    """What the update replaced, under the names of columns. A source has the values at its top level."""
    parts = event.previous.get(event.object.type or "", event.previous)
    return {name: parts[name] for name in _STRIPE_FIELDS if name in parts} if isinstance(parts, Mapping) else {}


def _timer_key(account: str, method_id: str) -> str:
    return f"{METHOD_DETACHED}:{account}:{method_id}"
