"""Customers and their payment methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local.stripe.simulator.books import Books, Json


def create_customer(books: Books, *, email: str | None, name: str | None, user: str | None = None, **more: Any) -> Json:
    """`user` is the product's own user, which the product puts into `metadata.userId`."""
    customer: Json = {
        "id": books.new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": books.now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": email,
        "invoice_prefix": "SIM",
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
        "livemode": False,
        "metadata": {"userId": user} if user else {},
        "name": name,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
    } | more
    books.emit("customer.created", books.add(customer))
    return customer


def update_customer(books: Books, customer: Json, **changes: Any) -> None:
    with books.change(customer):
        customer.update(changes)


def set_default(books: Books, customer: Json, method_id: str | None) -> None:
    settings = customer["invoice_settings"] | {"default_payment_method": method_id}
    update_customer(books, customer, invoice_settings=settings)


def delete_customer(books: Books, customer: Json, end_subscription: Callable[[Books, Json], None]) -> None:
    """Ends the subscriptions of the customer and detaches the payment methods first, as Stripe does."""
    for subscription in books.of("subscription", customer["id"]):
        end_subscription(books, subscription)
    for method in books.of("payment_method", customer["id"]):
        with books.change(method, "payment_method.detached"):
            method["customer"] = None
    books.objects["customer"][customer["id"]] = {
        "id": customer["id"], "object": "customer", "created": customer["created"], "deleted": True,
    }  # fmt: skip
    books.emit("customer.deleted", customer)


def is_deleted(books: Books, customer_id: str) -> bool:
    return books.get("customer", customer_id).get("deleted") is True


def add_to_balance(books: Books, customer: Json, amount: int) -> None:
    """A negative amount is credit, as Stripe counts it."""
    if amount:
        update_customer(books, customer, balance=customer["balance"] + amount)


def attach_card(
    books: Books, customer: Json, behavior: str = "ok", *, expiry: tuple[int, int] = (2034, 12), default: bool = True
) -> Json:
    """`behavior`: `ok`, `declined`, or `action` (the bank asks the customer first). `expiry` is (year, month)."""
    card: Json = {
        "brand": "visa",
        "country": "DE",
        "exp_month": expiry[1],
        "exp_year": expiry[0],
        "fingerprint": books.new_id("fp"),
        "funding": "credit",
        "last4": f"{len(books.objects['payment_method']) % 10_000:04}",
    }
    return _attach(books, customer, "card", card, behavior, default=default)


def attach_debit(books: Books, customer: Json, behavior: str = "ok", *, default: bool = True) -> Json:
    """A SEPA debit: its outcome is known only days later."""
    debit: Json = {"bank_code": "37040044", "branch_code": "", "country": "DE", "fingerprint": books.new_id("fp")}
    return _attach(books, customer, "sepa_debit", debit | {"last4": "3000"}, behavior, default=default)


def _attach(books: Books, customer: Json, type_: str, details: Json, behavior: str, *, default: bool) -> Json:
    method: Json = {
        "id": books.new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {"address": None, "email": customer["email"], "name": customer["name"], "phone": None},
        "created": books.now,
        "customer": customer["id"],
        "livemode": False,
        "metadata": {},
        "type": type_,
        type_: details,
        "_behavior": behavior,
    }
    books.emit("payment_method.attached", books.add(method))
    if default:
        set_default(books, customer, method["id"])
    return method


def renew_card(books: Books, method: Json, *, behavior: str = "ok") -> None:
    """The issuer has sent a new card, and the network tells Stripe."""
    method["_behavior"] = behavior
    with books.change(method, "payment_method.automatically_updated"):
        method["card"] = method["card"] | {"exp_year": method["card"]["exp_year"] + 3}


def detach(books: Books, method: Json) -> None:
    customer = books.get("customer", method["customer"])
    with books.change(method, "payment_method.detached"):
        method["customer"] = None
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        set_default(books, customer, None)
    for subscription in books.of("subscription", customer["id"]):
        if subscription["default_payment_method"] == method["id"]:
            with books.change(subscription):
                subscription["default_payment_method"] = None


def method_for(books: Books, customer_id: str, subscription: Json | None = None) -> Json | None:
    """Returns what Stripe charges: the subscription's own payment method, else the customer's default."""
    customer = books.get("customer", customer_id)
    if customer.get("deleted"):
        return None
    own = subscription["default_payment_method"] if subscription else None
    chosen = own or customer["invoice_settings"]["default_payment_method"]
    return books.get("payment_method", chosen) if chosen else None
