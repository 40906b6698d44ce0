"""Invoices: drafts, finalizing, and what closes them. Payment attempts are in collection.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local.stripe.simulator.books import DAY_S, Books, Json, freeze, listing
from local.stripe.simulator.customers import add_to_balance
from local.stripe.simulator.discounts import deduct, in_force, use
from local.stripe.simulator.prices import PRICES, shown

FIRST, CYCLE, UPDATE, MANUAL = "subscription_create", "subscription_cycle", "subscription_update", "manual"
"""`billing_reason`"""


def line(books: Books, amount: int, currency: str, period: tuple[int, int], **more: Any) -> Json:
    """`more`: price, item, subscription, quantity, proration."""
    price_id, subscription = more.get("price"), more.get("subscription")
    price = shown(PRICES[price_id]) if price_id else None
    own = {"proration": more.get("proration", False), "subscription": subscription}
    is_item = more.get("item") is not None
    kind = "subscription_item_details" if is_item else "invoice_item_details"
    parent: Json = {"type": kind, "subscription_item_details": None, "invoice_item_details": None}
    parent[kind] = own | ({"subscription_item": more["item"]} if is_item else {"invoice_item": books.new_id("ii")})
    details = {"price": price_id, "product": price["product"]} if price else None
    pricing = {"type": "price_details", "price_details": details, "unit_amount_decimal": None} if price else None
    return {
        "id": books.new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": f"{more.get('quantity', 1)} x {price_id or 'item'}",
        "discount_amounts": [],
        "discountable": not own["proration"],
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "period": {"start": period[0], "end": period[1]},
        "pricing": pricing,
        "quantity": more.get("quantity", 1),
        "_price": price,
    }


def create_draft(
    books: Books,
    customer: Json,
    lines: Sequence[Json],
    reason: str,
    *,
    currency: str,
    subscription: Json | None = None,
    is_preview: bool = False,
) -> Json:
    """A draft of the subscription's, or of the customer's alone, which has no discounts.

    `is_preview`: it uses up no coupon.
    """
    discounts = in_force(customer, subscription) if subscription is not None else []
    deducted = deduct(lines, discounts, currency)
    subtotal = sum(one["amount"] for one in lines)
    total = subtotal - sum(one["amount"] for one in deducted)
    subscription_id = subscription["id"] if subscription else None
    method = subscription["collection_method"] if subscription else "charge_automatically"
    details: Json = {"metadata": {}, "subscription": subscription_id}
    invoice: Json = {
        "id": books.new_id("in"),
        "object": "invoice",
        "amount_due": max(0, total),
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": max(0, total),
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "billing_reason": reason,
        "collection_method": method,
        "created": books.now,
        "currency": currency,
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "default_payment_method": None,
        "discounts": [one["id"] for one in discounts],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "last_finalization_error": None,
        "lines": listing(list(lines), "/v1/invoices/lines"),
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"}
        if subscription
        else None,
        "period_end": books.now,
        "period_start": books.now,
        "pre_payment_credit_notes_amount": 0,
        "post_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None,
        },
        "subtotal": subtotal,
        "total": total,
        "total_discount_amounts": deducted,
        "total_taxes": [],
        "_charge": None,
        "_intent": None,
        "_subscription": subscription_id,
        "_days_until_due": subscription["days_until_due"] if subscription else None,
    }  # fmt: skip
    books.emit("invoice.created", books.add(invoice))
    if not is_preview:
        use(books, (subscription, customer), [one["discount"] for one in deducted])
    return invoice


def finalize(books: Books, invoice: Json) -> None:
    """Gives the invoice its number, settles it with the customer's balance, and freezes the customer's address."""
    customer = books.get("customer", invoice["customer"])
    before, total = customer.get("balance", 0), invoice["total"]
    due = max(0, total + before) if total > 0 else 0
    after = before + total - due
    hosted = f"https://invoice.stripe.com/i/{invoice['id']}"
    with books.change(invoice, "invoice.finalized"):
        invoice.update(
            amount_due=due,
            amount_remaining=due,
            effective_at=books.now,
            ending_balance=after,
            hosted_invoice_url=hosted,
            invoice_pdf=f"{hosted}/pdf",
            number=f"SIM-{books.new_id('n').removeprefix('n_')[:8].upper()}",
            starting_balance=before,
            status="open",
        )
        if not customer.get("deleted"):
            invoice.update(customer_email=customer["email"], customer_name=customer["name"])
        if invoice["collection_method"] == "send_invoice":
            invoice["due_date"] = books.now + (invoice["_days_until_due"] or 30) * DAY_S
        elif invoice["billing_reason"] == FIRST and due > 0:
            invoice.update(
                attempt_count=1, _counted=True
            )  # the customer is at the checkout; Stripe plans no attempt of its own
        _at(invoice, "finalized_at", books.now)
    if not customer.get("deleted"):
        add_to_balance(books, customer, after - before)
    if due == 0:
        mark_paid(books, invoice)
    elif invoice["collection_method"] == "send_invoice":
        books.emit("invoice.sent", invoice)
        books.clock.at(invoice["due_date"], lambda: _overdue(books, invoice))


def mark_paid(books: Books, invoice: Json) -> None:
    """Nothing is left to pay. Sends both types, as Stripe does, whether or not money moved."""
    before = _transition(
        books, invoice, "paid", "paid_at", auto_advance=False, next_payment_attempt=None, attempted=True
    )
    for type_ in ("invoice.updated", "invoice.paid", "invoice.payment_succeeded"):
        books.emit(type_, invoice, before if type_ == "invoice.updated" else None)
    books.notify("paid", invoice)


def void(books: Books, invoice: Json) -> None:
    before = _transition(books, invoice, "void", "voided_at", auto_advance=False, next_payment_attempt=None)
    books.emit("invoice.updated", invoice, before)
    books.emit("invoice.voided", invoice)
    books.notify("closed", invoice)


def mark_uncollectible(books: Books, invoice: Json) -> None:
    """Written off; it may still be paid."""
    changes = {"auto_advance": False, "next_payment_attempt": None}
    before = _transition(books, invoice, "uncollectible", "marked_uncollectible_at", **changes)
    books.emit("invoice.updated", invoice, before)
    books.emit("invoice.marked_uncollectible", invoice)
    books.notify("closed", invoice)


def delete_draft(books: Books, invoice: Json) -> None:
    """Only drafts can be deleted."""
    del books.objects["invoice"][invoice["id"]]
    invoice["_deleted"] = True
    books.emit("invoice.deleted", invoice | {"deleted": True})


def upcoming(books: Books, subscription: Json, lines: Sequence[Json], at: int) -> None:
    """The invoice that is to come: it has no id and is in no list."""
    customer = books.get("customer", subscription["customer"])
    draft_ids = books.counts["in"]
    events = len(books.events)
    draft = create_draft(
        books, customer, lines, "upcoming", currency=subscription["currency"], subscription=subscription,
        is_preview=True,
    )  # fmt: skip
    del books.events[events:], books.objects["invoice"][draft["id"]]
    books.owned["invoice", customer["id"]].pop()
    books.counts["in"] = draft_ids
    del draft["id"]
    books.emit("invoice.upcoming", draft | {"created": at, "next_payment_attempt": at})


def is_open(invoice: Json) -> bool:
    """Returns whether it can be paid."""
    return invoice["status"] in ("open", "uncollectible")


def _transition(books: Books, invoice: Json, status: str, moment: str, **changes: Any) -> bytes:
    """Returns the invoice as it was before."""
    before = freeze(invoice)
    invoice.update(changes, status=status)
    if status == "paid":
        invoice["amount_remaining"] = 0
    _at(invoice, moment, books.now)
    return before


def _at(invoice: Json, name: str, moment: int) -> None:
    invoice["status_transitions"] = invoice["status_transitions"] | {name: moment}


def _overdue(books: Books, invoice: Json) -> None:
    if invoice["status"] == "open" and invoice["amount_remaining"] > 0:
        books.emit("invoice.overdue", invoice)
        books.notify("overdue", invoice)
