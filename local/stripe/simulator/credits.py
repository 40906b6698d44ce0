"""Credit notes: before payment they reduce what is owed, after it they return money or give credit."""

from __future__ import annotations

from local.stripe.simulator.books import Books, Json, freeze
from local.stripe.simulator.customers import add_to_balance
from local.stripe.simulator.invoices import mark_paid
from local.stripe.simulator.refunds import refund


def credit_open_invoice(books: Books, invoice: Json, amount: int) -> Json:
    """Reduces what is owed. An invoice of which nothing is left is paid."""
    note = _note(books, invoice, amount, pre=amount)
    before = freeze(invoice)
    invoice["pre_payment_credit_notes_amount"] += amount
    for name in ("amount_due", "amount_remaining"):
        invoice[name] -= amount
    if invoice["amount_remaining"] == 0:
        mark_paid(books, invoice)
    else:
        books.emit("invoice.updated", invoice, before)
    return note


def credit_paid_invoice(books: Books, invoice: Json, amount: int, to_balance: int, charge: Json) -> Json:
    """Returns `to_balance` of the amount as credit and the rest to the charge."""
    returned = amount - to_balance
    refunded = refund(books, charge, returned) if returned else None
    note = _note(books, invoice, amount, post=amount, refunded=refunded)
    with books.change(invoice):
        invoice["post_payment_credit_notes_amount"] += amount
    if to_balance:
        customer = books.get("customer", invoice["customer"])
        add_to_balance(books, customer, -to_balance)
    return note


def _note(
    books: Books, invoice: Json, amount: int, *, pre: int = 0, post: int = 0, refunded: Json | None = None
) -> Json:
    note: Json = {
        "id": books.new_id("cn"),
        "object": "credit_note",
        "amount": amount,
        "created": books.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "invoice": invoice["id"],
        "livemode": False,
        "memo": None,
        "metadata": {},
        "post_payment_amount": post,
        "pre_payment_amount": pre,
        "reason": "order_change",
        "refunds": [{"amount_refunded": refunded["amount"], "refund": refunded["id"]}] if refunded else [],
        "status": "issued",
        "type": "post_payment" if post else "pre_payment",
    }
    books.emit("credit_note.created", books.add(note))
    return note
