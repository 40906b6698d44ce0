"""Checkout Sessions: subscriptions, purchases, saved cards; delayed payment, manual capture, invoices, expiry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local.stripe.simulator.books import DAY_S, Books, Json
from local.stripe.simulator.collection import attempt
from local.stripe.simulator.customers import attach_card, create_customer
from local.stripe.simulator.invoices import MANUAL, create_draft, finalize, line, mark_paid
from local.stripe.simulator.payments import cancel_intent, capture, confirm, create_intent
from local.stripe.simulator.subscriptions import create_subscription

PAID, UNPAID, FREE = "paid", "unpaid", "no_payment_required"


def subscribe(
    books: Books,
    items: Sequence[tuple[str, int]],
    *,
    email: str,
    name: str | None,
    user: str | None,
    plan: str | None = None,
    customer: Json | None = None,
    card: str = "ok",
    declined_first: int = 0,
    gives_up: bool = False,
    trial_days: int = 0,
    **more: Any,
) -> Json:
    """A person subscribes. `declined_first` cards are declined before one is taken; `gives_up`: none ever is.

    Returns the subscription.
    """
    customer = customer or create_customer(books, email=email, name=name, user=user)
    session = _session(books, "subscription", customer, email=email, name=name, metadata=_metadata(user, plan))
    subscription = create_subscription(
        books, customer, items, pays_at_once=False, trial_days=trial_days, metadata=_metadata(user, None), **more
    )
    invoice = books.get("invoice", subscription["latest_invoice"])
    for _ in range(declined_first):
        attempt(books, invoice, None)
        books.clock.advance(40)
    if gives_up:
        books.clock.at(session["expires_at"], lambda: _expire(books, session))
        return subscription
    attach_card(books, customer, card)
    if invoice["status"] == "open":
        attempt(books, invoice, books.get("payment_method", customer["invoice_settings"]["default_payment_method"]))
    is_paid = invoice["status"] == "paid"
    session.update(subscription=subscription["id"], invoice=invoice["id"], currency=subscription["currency"])
    session.update(amount_total=invoice["amount_due"], amount_subtotal=invoice["subtotal"])
    if is_paid:
        _complete(books, session, FREE if invoice["amount_due"] == 0 and trial_days else PAID)
    return subscription


def buy(
    books: Books,
    amount: int,
    currency: str,
    *,
    email: str | None,
    customer: Json | None = None,
    user: str | None = None,
    method: Json | None = None,
    with_invoice: bool = False,
    by_hand: bool = False,
    invoice_first: bool = False,
) -> Json:
    """A one-time purchase; without a customer it is a guest's. `by_hand`: the money is captured later, or never.

    `with_invoice` makes a paid invoice of it, before or after the session's event. Returns the session.
    """
    session = _session(books, "payment", customer, email=email, name=None, metadata=_metadata(user, None))
    session.update(amount_total=amount, amount_subtotal=amount, currency=currency)
    session["invoice_creation"] = {"enabled": with_invoice}
    if amount == 0:
        _complete(books, session, FREE)
        return session
    customer_id = customer["id"] if customer else None
    intent = create_intent(books, customer=customer_id, amount=amount, currency=currency)
    intent["capture_method"] = "manual" if by_hand else "automatic"
    session["payment_intent"] = intent["id"]

    def settled(intent: Json) -> None:
        is_paid = intent["status"] == "succeeded"
        if session["status"] == "open":
            if not is_paid:
                return
            if with_invoice and invoice_first and customer:
                _invoice_of(books, session, customer, intent)
            _complete(books, session, PAID)
        elif not by_hand:
            if is_paid and with_invoice and invoice_first and customer:
                _invoice_of(books, session, customer, intent)
            session["payment_status"] = PAID if is_paid else UNPAID
            books.emit(f"checkout.session.async_payment_{'succeeded' if is_paid else 'failed'}", session)
        else:
            session["payment_status"] = PAID
        if is_paid and with_invoice and customer and session["invoice"] is None:
            _invoice_of(books, session, customer, intent)

    own = method or {"id": books.new_id("pm"), "type": "card", "_behavior": "ok"}
    status = confirm(books, intent, own, settled)
    if status in ("processing", "requires_capture"):
        _complete(books, session, UNPAID)
        books.watchers[intent["id"]] = settled
    elif status != "succeeded":
        books.clock.at(session["expires_at"], lambda: _expire(books, session))
    return session


def capture_purchase(books: Books, session: Json, *, is_taken: bool) -> None:
    """The seller captures the money of a purchase with manual capture, or lets it go."""
    intent = books.get("payment_intent", session["payment_intent"])
    if intent["status"] != "requires_capture":
        return
    if is_taken:
        capture(books, intent, books.watchers.pop(intent["id"]))
    else:
        del books.watchers[intent["id"]]
        cancel_intent(books, intent)


def save_card(books: Books, customer: Json, card: str = "ok") -> Json:
    """A session in mode `setup`: no money moves."""
    session = _session(books, "setup", customer, email=customer["email"], name=customer["name"], metadata={})
    attach_card(books, customer, card)
    session["setup_intent"] = books.new_id("seti")
    _complete(books, session, FREE)
    return session


def leave(books: Books, email: str) -> Json:
    """Somebody opens a checkout and never finishes it."""
    session = _session(books, "payment", None, email=email, name=None, metadata={})
    session.update(amount_total=4900, amount_subtotal=4900, currency="eur")
    books.clock.at(session["expires_at"], lambda: _expire(books, session))
    return session


def _invoice_of(books: Books, session: Json, customer: Json, intent: Json) -> None:
    amount, currency = session["amount_total"], session["currency"]
    lines = [line(books, amount, currency, (books.now, books.now), price="price_setup")]
    invoice = create_draft(books, customer, lines, MANUAL, currency=currency)
    balance, customer["balance"] = customer["balance"], 0  # a purchase is not paid from the balance
    finalize(books, invoice)
    customer["balance"] = balance
    invoice.update(amount_paid=amount, attempted=True, _intent=intent["id"], _charge=intent["latest_charge"])
    intent["_invoice"] = invoice["id"]
    books.get("charge", intent["latest_charge"])["_invoice"] = invoice["id"]
    session["invoice"] = invoice["id"]
    mark_paid(books, invoice)
    invoice_payment: Json = {
        "id": books.new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": amount,
        "amount_requested": amount,
        "created": books.now,
        "currency": currency,
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": books.now},
    }
    books.emit("invoice_payment.paid", books.add(invoice_payment))


def _session(
    books: Books, mode: str, customer: Json | None, *, email: str | None, name: str | None, metadata: Json
) -> Json:
    details: Json = {"address": None, "email": email, "name": name, "phone": None, "tax_exempt": "none", "tax_ids": []}
    return books.add(
        {
            "id": books.new_id("cs_test"),
            "object": "checkout.session",
            "amount_subtotal": None,
            "amount_total": None,
            "client_reference_id": None,
            "created": books.now,
            "currency": None,
            "customer": customer["id"] if customer else None,
            "customer_details": details if email else None,
            "customer_email": None,
            "expires_at": books.now + DAY_S,
            "invoice": None,
            "invoice_creation": {"enabled": False},
            "livemode": False,
            "locale": None,
            "metadata": metadata,
            "mode": mode,
            "payment_intent": None,
            "payment_link": None,
            "payment_method_types": ["card", "sepa_debit"],
            "payment_status": UNPAID,
            "setup_intent": None,
            "status": "open",
            "subscription": None,
            "ui_mode": "hosted",
        }
    )


def _complete(books: Books, session: Json, payment_status: str) -> None:
    session.update(status="complete", payment_status=payment_status)
    books.emit("checkout.session.completed", session)


def _expire(books: Books, session: Json) -> None:
    if session["status"] == "open":
        session.update(status="expired")
        books.emit("checkout.session.expired", session)


def _metadata(user: str | None, plan: str | None) -> Json:
    return {name: value for name, value in (("userId", user), ("planId", plan)) if value is not None}
