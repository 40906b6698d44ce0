"""The rules of stream `checkout`: `checkout.session.*` (behaviours.md B2)."""

from __future__ import annotations

from schemas.effects import Effect, Note, NoteStale
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Customer
from schemas.statuses import LinkKind
from schemas.stripe.checkout_session import CheckoutSession
from streams.rules.customers.account import (
    customer_or_blank,
    link_user,
    returned,
    save_customer_and_derived,
    subscriptions_with,
    with_weak_profile,
)
from streams.rules.customers.organization import derive_organization
from streams.rules.mails import welcome
from streams.rules.payments.matching import match, named, refs
from streams.rules.payments.receipts import receipt
from streams.rules.payments.row import PAID, apply_checkout_payment, checkout_failed
from streams.rules.registry import Stream
from streams.rules.subscription_row import ENDED, apply_checkout_event, blank

stream = Stream("checkout")

CheckoutEvent = Event[CheckoutSession]


def refer(event: CheckoutEvent) -> References:
    session, customer_id = event.object, _customer_id(event)
    return References(
        customers={(event.account, customer_id)} if customer_id else set(),
        subscriptions={(event.account, session.subscription)} if session.subscription else set(),
        payments=refs(event.account, _payment_ids(session)) if session.mode == "payment" else set(),
        users={(event.account, id_) for id_ in (session.user_id, session.client_reference_id) if id_},
    )


@stream.on("checkout.session.completed", model=CheckoutSession, refer=refer, rank=20)
@stream.on("checkout.session.async_payment_succeeded", model=CheckoutSession, refer=refer, rank=40)
def on_completed(event: CheckoutEvent, known: Known) -> list[Effect]:
    """A one-time purchase is fulfilled once it is paid. With delayed payment methods that is the second event."""
    match event.object.mode:
        case "subscription":
            return _subscribed(event, known)
        case "payment":
            return _bought(event, known)
        case "setup":
            return _people(event, known)


@stream.on("checkout.session.async_payment_failed", model=CheckoutSession, refer=refer, rank=30)
def on_async_payment_failed(event: CheckoutEvent, known: Known) -> list[Effect]:
    """The delayed payment of a purchase failed. For a subscription, the rules of its invoice handle the failure."""
    session = event.object
    if session.mode != "payment":
        return _people(event, known)
    found = match(known, event.account, _payment_ids(session))
    after = checkout_failed(found.row_or_blank, event, *_price(session))
    effects = found.save(after)
    if after.status in PAID:
        effects.append(NoteStale(f"{session.id} is paid"))
    return effects + _people(event, known)


@stream.on("checkout.session.expired", model=CheckoutSession, refer=refer, rank=30)
def on_expired(event: CheckoutEvent, known: Known) -> list[Effect]:  # noqa: ARG001  # all rules have one signature
    """Nothing was bought. The ledger records the event."""
    return []


def _subscribed(event: CheckoutEvent, known: Known) -> list[Effect]:
    """Links user, customer and subscription, and stores the chosen plan."""
    session, customer = event.object, _customer(event, known)
    if customer is None or session.subscription is None:
        raise RuleViolated(f"{session.id} sold a subscription but names no customer or no subscription")
    stored = known.subscription(event.account, session.subscription)
    row = stored or blank(event.account, session.subscription, customer.customer_id)
    row = apply_checkout_event(row, event, session.plan_id, has_begun=session.is_paid, config=known.config)
    effects = save_customer_and_derived(known, customer, row)
    if session.plan_id is not None and session.plan_id not in known.config.plans:
        effects.append(Note(f"the checkout names the plan {session.plan_id!r:.80}, which the config does not have"))
    if row.status in ENDED or not session.is_paid:
        return effects
    organization = derive_organization(known.config, customer, subscriptions_with(known, customer, row)).name
    return [
        *effects,
        *welcome(known.config, customer, row, organization, to=session.email),
    ]


def _bought(event: CheckoutEvent, known: Known) -> list[Effect]:
    """Records a one-time purchase, including a guest's."""
    session = event.object
    found = match(known, event.account, _payment_ids(session))
    after = apply_checkout_payment(found.row_or_blank, event, *_price(session))
    effects = found.save(after) + _people(event, known)
    if not session.is_paid or session.creates_invoice:
        return effects
    return [*effects, *receipt(known, event, after, name=session.name, to=session.email)]


def _payment_ids(session: CheckoutSession) -> dict[str, LinkKind]:
    return named(invoice=session.invoice, session=session.id, intents=(session.payment_intent,))


def _people(event: CheckoutEvent, known: Known) -> list[Effect]:
    customer = _customer(event, known)
    return save_customer_and_derived(known, customer) if customer is not None else []


def _customer_id(event: CheckoutEvent) -> str | None:
    return event.object.customer or event.customer_id


def _customer(event: CheckoutEvent, known: Known) -> Customer | None:
    """The customer with the address and the user from the checkout; None for a guest."""
    customer_id, session = _customer_id(event), event.object
    if customer_id is None:
        return None
    customer = customer_or_blank(known, event.account, customer_id)
    if session.mode != "setup" and session.is_paid:
        customer = returned(customer, session.created or event.at)
    customer = with_weak_profile(customer, event, email=session.email, name=session.name, address=session.address)
    if session.user_id is not None or not known.config.rules.link_client_reference_id:
        return link_user(customer, event, session.user_id)
    reference = session.client_reference_id
    others = known.customers_of_user(event.account, reference) if reference is not None else []
    if any(other.key != customer.key for other in others):
        return customer  # the user is another customer's, and a buyer can name any user
    return link_user(customer, event, reference, by_buyer=True)


def _price(session: CheckoutSession) -> tuple[int, str]:
    if session.amount_total is None or session.currency is None or session.payment_status is None:
        raise RuleViolated(f"{session.id} sold something but lacks amount_total, currency or payment_status")
    return session.amount_total, session.currency
