"""Refunds: whole, partial, pending, and failing after days."""

from __future__ import annotations

import orjson

from local.stripe.simulator.books import DAY_S, Books, Json

LOST = ("failed", "canceled")


def refundable(charge: Json) -> int:
    """Returns what can still be returned, in minor units."""
    if charge["status"] != "succeeded" or not charge["captured"] or charge["disputed"]:
        return 0
    return int(charge["amount"] - charge["amount_refunded"])


def refund(books: Books, charge: Json, amount: int, outcome: str = "succeeded") -> Json:
    """`outcome`: `succeeded` at once, `pending` (succeeds after days) or `failed` (fails after days)."""
    obj: Json = {
        "id": books.new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": books.now,
        "currency": charge["currency"],
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": "requested_by_customer",
        "receipt_number": None,
        "status": "succeeded" if outcome == "succeeded" else "pending",
    }
    books.add(obj)
    with books.change(charge, "charge.refunded"):
        returned = charge["amount_refunded"] + amount
        charge.update(amount_refunded=returned, refunded=returned == charge["amount"])
    books.emit("refund.created", obj)
    if outcome != "succeeded":
        books.clock.at(books.now + 5 * DAY_S, lambda: _end(books, charge, obj, outcome))
    return obj


def _end(books: Books, charge: Json, obj: Json, outcome: str) -> None:
    if outcome == "pending":
        _change(books, obj, "refund.updated", {"status": "succeeded"})
        return
    with books.change(charge):
        charge.update(amount_refunded=charge["amount_refunded"] - obj["amount"], refunded=False)
    _change(books, obj, "refund.failed", {"status": "failed", "failure_reason": "lost_or_stolen_card"})


def _change(books: Books, obj: Json, type_: str, changes: Json) -> None:
    """Stripe sends the present type and, as for a charge's refund, the one it had before."""
    before = orjson.dumps(obj)
    obj.update(changes)
    for sent in ("charge.refund.updated", type_):
        books.emit(sent, obj, before)
