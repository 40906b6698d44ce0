"""Payment intents and charges: what happens when money is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local.stripe.simulator.books import DAY_S, Books, Json

DEBIT_S = 4 * DAY_S
"""How long a bank takes with a debit."""

DECLINED = {"code": "card_declined", "decline_code": "insufficient_funds", "message": "Your card was declined."}

Settled = Callable[[Json], None]
"""Called with the intent once it has succeeded, failed or been canceled."""


def create_intent(
    books: Books, *, customer: str | None, amount: int, currency: str, invoice: str | None = None, **more: Any
) -> Json:
    intent: Json = {
        "id": books.new_id("pi"),
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "created": books.now,
        "currency": currency,
        "customer": customer,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "payment_method": None,
        "payment_method_types": ["card", "sepa_debit"],
        "status": "requires_payment_method",
        "_invoice": invoice,
    } | more
    books.emit("payment_intent.created", books.add(intent))
    return intent


def confirm(books: Books, intent: Json, method: Json | None, settled: Settled) -> str:
    """Asks the payment method for the money. Returns the intent's status; calls `settled` now or once it is known."""
    behavior = method["_behavior"] if method else "declined"
    if method is not None and method["type"] == "sepa_debit":
        charge = _charge(books, intent, method, status="pending")
        _move(books, intent, "payment_intent.processing", status="processing", latest_charge=charge["id"])
        books.clock.at(books.now + DEBIT_S, lambda: _end_debit(books, intent, charge, behavior, settled))
    elif behavior == "action" and intent["status"] != "requires_action":
        _move(books, intent, "payment_intent.requires_action", status="requires_action")
    elif behavior == "declined":
        _fail(books, intent, _charge(books, intent, method, status="failed"), settled)
    elif intent["capture_method"] == "manual":
        charge = _charge(books, intent, method, status="succeeded", captured=False)
        changes = {"status": "requires_capture", "amount_capturable": intent["amount"], "latest_charge": charge["id"]}
        _move(books, intent, "payment_intent.amount_capturable_updated", **changes)
    else:
        _succeed(books, intent, _charge(books, intent, method, status="succeeded"), settled)
    return str(intent["status"])


def capture(books: Books, intent: Json, settled: Settled) -> None:
    charge = books.get("charge", intent["latest_charge"])
    with books.change(charge, "charge.captured"):
        charge.update(captured=True, amount_captured=charge["amount"])
    _succeed(books, intent, charge, settled)


def cancel_intent(books: Books, intent: Json, reason: str = "abandoned") -> None:
    _move(books, intent, "payment_intent.canceled", status="canceled", amount_capturable=0, cancellation_reason=reason)


def _charge(books: Books, intent: Json, method: Json | None, *, status: str, captured: bool = True) -> Json:
    is_failed = status == "failed"
    charge: Json = {
        "id": books.new_id("py" if method and method["type"] == "sepa_debit" else "ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if captured and not is_failed else 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None},
        "captured": captured and not is_failed,
        "created": books.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "disputed": False,
        "failure_code": DECLINED["code"] if is_failed else None,
        "failure_message": DECLINED["message"] if is_failed else None,
        "livemode": False,
        "metadata": {},
        "paid": status == "succeeded",
        "payment_intent": intent["id"],
        "payment_method": method["id"] if method else None,
        "payment_method_details": {"type": method["type"]} if method else None,
        "receipt_email": None,
        "refunded": False,
        "status": status,
        "_invoice": intent["_invoice"],
    }
    books.emit(f"charge.{status}", books.add(charge))
    return charge


def _end_debit(books: Books, intent: Json, charge: Json, behavior: str, settled: Settled) -> None:
    is_paid = behavior == "ok"
    with books.change(charge, "charge.succeeded" if is_paid else "charge.failed"):
        message = None if is_paid else "The customer's account has insufficient funds."
        charge.update(status="succeeded" if is_paid else "failed", paid=is_paid, failure_message=message)
        charge.update(captured=is_paid, amount_captured=charge["amount"] if is_paid else 0)
    if is_paid:
        _succeed(books, intent, charge, settled)
    else:
        _fail(books, intent, charge, settled)


def _succeed(books: Books, intent: Json, charge: Json, settled: Settled) -> None:
    changes = {"amount_received": intent["amount"], "amount_capturable": 0, "latest_charge": charge["id"]}
    _move(books, intent, "payment_intent.succeeded", status="succeeded", last_payment_error=None, **changes)
    settled(intent)


def _fail(books: Books, intent: Json, charge: Json, settled: Settled) -> None:
    error = {**DECLINED, "charge": charge["id"], "type": "card_error", "message": charge["failure_message"]}
    changes = {"latest_charge": charge["id"], "last_payment_error": error}
    _move(books, intent, "payment_intent.payment_failed", status="requires_payment_method", **changes)
    settled(intent)


def _move(books: Books, intent: Json, type_: str, **changes: Any) -> None:
    intent.update(changes)
    books.emit(type_, intent)
