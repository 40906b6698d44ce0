"""Disputes: inquiries, chargebacks, and debits that are lost at once."""

from __future__ import annotations

from typing import Any

from local.stripe.simulator.books import DAY_S, Books, Json

CLOSED = ("won", "lost", "warning_closed", "prevented")


def open_dispute(books: Books, charge: Json, *, inquiry: bool = False) -> Json:
    """An inquiry withdraws no money. A debit's dispute is lost when it is created, as with SEPA, ACH and BACS."""
    is_debit = charge["payment_method_details"] is not None and charge["payment_method_details"]["type"] != "card"
    status = "lost" if is_debit else "warning_needs_response" if inquiry else "needs_response"
    dispute: Json = {
        "id": books.new_id("dp"),
        "object": "dispute",
        "amount": charge["amount"] - charge["amount_refunded"],
        "balance_transactions": [],
        "charge": charge["id"],
        "created": books.now,
        "currency": charge["currency"],
        "evidence": {},
        "evidence_details": _evidence(None if is_debit else books.now + 9 * DAY_S),
        "is_charge_refundable": inquiry and not is_debit,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {"type": "sepa_debit" if is_debit else "card"},
        "reason": "debit_not_authorized" if is_debit else "fraudulent",
        "status": status,
        "_withdrawn": False,
    }
    books.add(dispute)
    with books.change(charge):
        charge["disputed"] = True
    books.emit("charge.dispute.created", dispute)
    if is_debit or not inquiry:
        _withdraw(books, dispute)
    return dispute


def answer(books: Books, dispute: Json) -> None:
    """Evidence is submitted."""
    is_inquiry = dispute["status"].startswith("warning_")
    with books.change(dispute):
        dispute["status"] = "warning_under_review" if is_inquiry else "under_review"
        dispute["evidence_details"] = dispute["evidence_details"] | {"has_evidence": True, "submission_count": 1}


def escalate(books: Books, dispute: Json) -> None:
    """An inquiry becomes a chargeback, with a new date."""
    with books.change(dispute):
        dispute.update(status="needs_response", is_charge_refundable=False)
        dispute["evidence_details"] = _evidence(books.now + 9 * DAY_S)
    _withdraw(books, dispute)


def close(books: Books, dispute: Json, outcome: str) -> None:
    """`outcome`: won or lost; an inquiry is closed without either."""
    is_inquiry = dispute["status"].startswith("warning_")
    with books.change(dispute, "charge.dispute.closed"):
        dispute["status"] = "warning_closed" if is_inquiry else outcome
    if dispute["status"] == "won" and dispute["_withdrawn"]:
        charge = books.get("charge", dispute["charge"])
        _move_funds(books, dispute, "charge.dispute.funds_reinstated", dispute["amount"])
        with books.change(charge):
            charge["disputed"] = False


def is_open(dispute: Json) -> bool:
    return dispute["status"] not in CLOSED


def _withdraw(books: Books, dispute: Json) -> None:
    dispute["_withdrawn"] = True
    _move_funds(books, dispute, "charge.dispute.funds_withdrawn", -dispute["amount"])


def _move_funds(books: Books, dispute: Json, type_: str, amount: int) -> None:
    transaction: Json = {"id": books.new_id("txn"), "object": "balance_transaction", "amount": amount}
    transaction |= {"currency": dispute["currency"], "created": books.now}
    with books.change(dispute, type_):
        dispute["balance_transactions"] = [*dispute["balance_transactions"], transaction]


def _evidence(due_by: int | None) -> dict[str, Any]:
    return {"due_by": due_by, "has_evidence": False, "past_due": False, "submission_count": 0}
