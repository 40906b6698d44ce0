"""How an invoice's money is collected: attempts, retries, payments in parts, by hand, and out of band."""

from __future__ import annotations

from local.stripe.simulator.books import DAY_S, Books, Json, freeze
from local.stripe.simulator.customers import method_for
from local.stripe.simulator.invoices import FIRST, is_open, mark_paid
from local.stripe.simulator.payments import cancel_intent, confirm, create_intent


def collect(books: Books, invoice: Json) -> None:
    """Stripe's own attempt, with the payment method that it would charge."""
    invoice["next_payment_attempt"] = None
    if invoice["status"] != "open" or invoice["amount_remaining"] == 0:
        return
    subscription_id = invoice["_subscription"]
    subscription = books.get("subscription", subscription_id) if subscription_id else None
    attempt(books, invoice, method_for(books, invoice["customer"], subscription), is_automatic=True)


def attempt(books: Books, invoice: Json, method: Json | None, *, is_automatic: bool = False) -> None:
    """One attempt to pay what remains: Stripe's, or the customer's on the hosted page."""
    intent = _intent(books, invoice)
    if intent["status"] in ("processing", "succeeded", "canceled"):
        return
    intent["amount"] = invoice["amount_remaining"]
    status = confirm(books, intent, method, lambda settled: _settle(books, invoice, settled, is_automatic=is_automatic))
    if status == "requires_action":
        _note_failure(books, invoice, is_automatic=is_automatic, action=True)
    elif status == "processing":
        invoice["attempted"] = True


def pay_part(books: Books, invoice: Json, amount: int, method: Json) -> None:
    """Pays a part of what remains, with an intent of its own (only in newer API versions)."""
    customer = invoice["customer"]
    part = create_intent(
        books, customer=customer, amount=amount, currency=invoice["currency"], invoice=invoice["id"], _part=True
    )
    confirm(books, part, method, lambda settled: _settle(books, invoice, settled, is_automatic=False))


def pay_out_of_band(books: Books, invoice: Json) -> None:
    """The customer has paid by other means, and the seller records it at Stripe. `amount_paid` is then the whole."""
    _drop_intent(books, invoice)
    _payment(books, invoice, invoice["amount_remaining"], {"type": "payment_record"})
    invoice.update(amount_paid=invoice["amount_paid"] + invoice["amount_remaining"], _out_of_band=True)
    mark_paid(books, invoice)


def _drop_intent(books: Books, invoice: Json) -> None:
    if invoice["_intent"]:
        intent = books.get("payment_intent", invoice["_intent"])
        if intent["status"] not in ("succeeded", "processing", "canceled"):
            cancel_intent(books, intent, "automatic")


def _intent(books: Books, invoice: Json) -> Json:
    if invoice["_intent"] is None:
        intent = create_intent(
            books,
            customer=invoice["customer"],
            amount=invoice["amount_remaining"],
            currency=invoice["currency"],
            invoice=invoice["id"],
        )
        invoice["_intent"] = intent["id"]
    return books.get("payment_intent", invoice["_intent"])


def _settle(books: Books, invoice: Json, intent: Json, *, is_automatic: bool) -> None:
    if not is_open(invoice):
        return
    if intent["status"] != "succeeded":
        _note_failure(books, invoice, is_automatic=is_automatic)
        return
    invoice["_charge"] = intent["latest_charge"]
    amount = intent["amount_received"]
    _payment(books, invoice, amount, {"payment_intent": intent["id"], "type": "payment_intent"})
    before = freeze(invoice)
    invoice["amount_paid"] += amount
    invoice["amount_remaining"] -= amount
    if not intent.get("_part"):
        _count_attempt(invoice)
    if invoice["amount_remaining"] > 0:
        books.emit("invoice.updated", invoice, before)
    else:
        if intent.get("_part"):
            _drop_intent(books, invoice)
        mark_paid(books, invoice)


def _note_failure(books: Books, invoice: Json, *, is_automatic: bool, action: bool = False) -> None:
    """Plans the next attempt of Stripe's own; what a customer tries by hand changes no plan."""
    before = freeze(invoice)
    _count_attempt(invoice)
    invoice["_failed"] = True
    has_plan = is_automatic and invoice["billing_reason"] != FIRST and not invoice.get("_pending")
    retries = books.settings.retries_days
    tries = invoice["_tries"] = invoice.get("_tries", 0) + has_plan
    if has_plan and tries <= len(retries):
        invoice["next_payment_attempt"] = moment = books.now + retries[tries - 1] * DAY_S
        books.clock.at(moment, lambda: collect(books, invoice) if invoice["next_payment_attempt"] == moment else None)
    if action:
        books.emit("invoice.payment_action_required", invoice)
    books.emit("invoice.updated", invoice, before)
    books.emit("invoice.payment_failed", invoice)
    books.notify("failed", invoice)
    if has_plan and tries > len(retries):
        books.notify("gave_up", invoice)


def _count_attempt(invoice: Json) -> None:
    """The first invoice of a subscription counts one attempt from the start (see invoices.finalize)."""
    is_counted = invoice.pop("_counted", False)
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + (not is_counted))


def _payment(books: Books, invoice: Json, amount: int, payment: Json) -> None:
    obj: Json = {
        "id": books.new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": amount,
        "amount_requested": amount,
        "created": books.now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": not invoice.get("_payments"),
        "livemode": False,
        "payment": payment,
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": books.now},
    }
    invoice["_payments"] = invoice.get("_payments", 0) + 1
    books.emit("invoice_payment.paid", books.add(obj))
