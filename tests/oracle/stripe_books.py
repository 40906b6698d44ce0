"""The tables against the simulated Stripe: each object field by field, money to the cent.

What Stripe does not say (our own derivations) is derived here a second time, from Stripe's objects alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.disputes import is_open
from local.stripe.simulator.refunds import LOST
from local.stripe.simulator.subscriptions import ENDED
from schemas.settings import FREE_PLAN, Config
from schemas.state import Customer, Dispute, Organization, Payment, PaymentMethod, Row, Subscription

RowsOf = Callable[[type[Row]], Iterable[Any]]
Expected = Mapping[str, Any]
"""By column: the value, or a tuple of the values that are right."""

COMPARED: Counter[str] = Counter()
"""How often each column has been compared in this process, by `Kind column`."""

WITH_ACCESS = ("active", "trialing", "past_due")


def disagreements(rows: RowsOf, books: Books, config: Config) -> list[str]:
    """One line for each field that differs: `sub_1 status: Stripe active, table past_due`."""
    found: list[str] = []
    for kind, expected in (
        (Customer, _customers(books)),
        (Subscription, _subscriptions(books, config)),
        (Organization, _organizations(books, config)),
        (PaymentMethod, _payment_methods(books)),
        (Dispute, _disputes(books)),
    ):
        mine = [row for row in rows(kind) if row.account == books.account]
        found += _compared(kind.__name__, {_id_of(row): row for row in mine}, dict(expected))
    payments: list[Payment] = [row for row in rows(Payment) if row.account == books.account]
    return found + list(_payments(payments, books))


def _id_of(row: Any) -> str:
    return str(row.customer_id if isinstance(row, Organization) else row.key[-1])


def _compared(kind: str, rows: Mapping[str, Any], expected: Mapping[str, Expected]) -> list[str]:
    found = [f"{kind} {id_}: Stripe has it, the table has not" for id_ in expected.keys() - rows.keys()]
    found += [f"{kind} {id_}: the table has it, Stripe has not" for id_ in rows.keys() - expected.keys()]
    for id_ in expected.keys() & rows.keys():
        found += _differing(f"{kind} {id_}", rows[id_], expected[id_])
    return sorted(found)


def _differing(name: str, row: Any, expected: Expected) -> Iterator[str]:
    for column, value in expected.items():
        if not hasattr(row, column):
            continue  # a column that this version of the tables does not have
        COMPARED[f"{type(row).__name__} {column}"] += 1
        is_ = getattr(row, column)
        allowed = value if isinstance(value, tuple) else (value,)
        if is_ not in allowed:
            yield f"{name} {column}: Stripe {' or '.join(map(str, allowed))}, table {is_}"


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _customers(books: Books) -> Iterator[tuple[str, Expected]]:
    for customer in books.all("customer"):
        if customer.get("deleted"):
            yield customer["id"], {}
            continue
        default = customer["invoice_settings"]["default_payment_method"]
        yield (
            customer["id"],
            {
                "email": customer["email"],
                "name": customer["name"],
                "default_payment_method": default,
                "user_id": customer["metadata"].get("userId"),
                "deleted_at": None,
            },
        )


def _subscriptions(books: Books, config: Config) -> Iterator[tuple[str, Expected]]:
    for one in books.all("subscription"):
        items = one["items"]["data"]
        planned = _planned_item(one, config)
        plan = config.plan_of_price(planned["price"]["id"]) if planned else None
        price = {"price_id": planned["price"]["id"], "quantity": planned["quantity"]} if planned else {}
        yield (
            one["id"],
            price
            | {
                "customer_id": one["customer"],
                "status": one["status"],
                "plan": FREE_PLAN if one["status"] in ENDED else plan,
                "currency": one["currency"],
                "current_period_start": _moment(items[0]["current_period_start"]),
                "current_period_end": _moment(items[0]["current_period_end"]),
                "trial_end": _moment(one["trial_end"]),
                "cancel_at": _moment(one["cancel_at"]),
                "cancel_at_period_end": one["cancel_at_period_end"],
                "canceled_at": _moment(one["canceled_at"]),
                "ended_at": _moment(one["ended_at"]),
                "latest_invoice": one["latest_invoice"],
                "default_payment_method": one["default_payment_method"],
                "pending_update": one["pending_update"] is not None,
                "pause_collection": (one["pause_collection"] or {}).get("behavior"),
                "resumes_at": _moment((one["pause_collection"] or {}).get("resumes_at")),
                "cancellation_reason": one["cancellation_details"]["reason"],
            },
        )


def _planned_item(subscription: Json, config: Config) -> Json | None:
    """The item whose price a plan names; of several, that of the last plan in the config."""
    order = list(config.plans)
    named = [
        (order.index(plan), item)
        for item in subscription["items"]["data"]
        if (plan := config.plan_of_price(item["price"]["id"])) is not None
    ]
    return max(named, key=lambda pair: pair[0])[1] if named else None


def _organizations(books: Books, config: Config) -> Iterator[tuple[str, Expected]]:
    order = list(config.plans)
    for customer in books.all("customer"):
        own = [one for one in books.all("subscription") if one["customer"] == customer["id"]]
        if not own:
            continue
        if customer.get("deleted"):
            yield customer["id"], {"plan": FREE_PLAN, "status": "cancelled"}
            continue
        giving = [one for one in own if one["status"] in WITH_ACCESS]
        items = [item for one in giving if (item := _planned_item(one, config)) is not None]
        plans = [plan for item in items if (plan := config.plan_of_price(item["price"]["id"])) is not None]
        largest = max(plans, key=order.index) if plans else None
        yield (
            customer["id"],
            {
                "plan": (largest,) if giving else FREE_PLAN,
                "status": _status(own),
                "billing_email": customer["email"],
                "has_access": bool(giving),
                "next_billing_at": min((end for one in giving if (end := _renewal(one)) is not None), default=None),
            },
        )


def _renewal(subscription: Json) -> datetime | None:
    """When the subscription renews next; None if it ends with its period, or its collection is paused."""
    end = min(item["current_period_end"] for item in subscription["items"]["data"])
    ends = subscription["cancel_at"] is not None and subscription["cancel_at"] <= end
    is_over = subscription["cancel_at_period_end"] or ends or subscription["pause_collection"] is not None
    return None if is_over else _moment(end)


def _status(own: Sequence[Json]) -> str:
    """A failed payment shows, even next to a subscription that is in order; else the best status counts."""
    statuses = {one["status"] for one in own}
    for stripes, ours in (
        ("past_due", "payment_failed"),
        ("unpaid", "payment_failed"),
        ("active", "active"),
        ("trialing", "trialing"),
        ("paused", "paused"),
        ("incomplete", "incomplete"),
    ):
        if stripes in statuses:
            return ours
    return "cancelled"


def _payment_methods(books: Books) -> Iterator[tuple[str, Expected]]:
    for method in books.all("payment_method"):
        details = method[method["type"]]
        expected: Json = {"type": method["type"], "last4": details["last4"]}
        if method["customer"] is not None:
            expected |= {"customer_id": method["customer"], "detached_at": None}
        yield method["id"], expected | {"exp_year": details.get("exp_year"), "exp_month": details.get("exp_month")}


def _disputes(books: Books) -> Iterator[tuple[str, Expected]]:
    for dispute in books.all("dispute"):
        yield (
            dispute["id"],
            {
                "amount": dispute["amount"],
                "currency": dispute["currency"],
                "status": dispute["status"],
                "charge_id": dispute["charge"],
                "due_by": _moment(dispute["evidence_details"]["due_by"]),
            },
        )


def _payments(rows: Sequence[Payment], books: Books) -> Iterator[str]:
    by_invoice = {row.invoice_id: row for row in rows if row.invoice_id}
    by_session = {row.checkout_session_id: row for row in rows if row.checkout_session_id}
    for invoice in books.all("invoice"):
        yield from _of_invoice(by_invoice.get(invoice["id"]), invoice, books)
    for session in books.all("checkout.session"):
        if session["mode"] == "payment" and session["invoice"] is None and session["status"] == "complete":
            yield from _of_session(by_session.get(session["id"]), session, books)
    known = {*books.objects["invoice"], *books.objects["checkout.session"]}
    counts = Counter(row.invoice_id or row.checkout_session_id for row in rows)
    for row in rows:
        named = row.invoice_id or row.checkout_session_id
        if named is None:
            yield f"Payment {row.charge_id or row.payment_intent_id}: belongs to no invoice and no session"
        elif named not in known and str(row.status) not in ("closed",) and row.closed_at is None:
            yield f"Payment {named}: the table has it, Stripe has not"
        elif counts[named] > 1:
            yield f"Payment {named}: the table has it {counts[named]} times"


def _of_invoice(row: Payment | None, invoice: Json, books: Books) -> Iterator[str]:
    name, status = f"Payment {invoice['id']}", invoice["status"]
    charges = [one for one in books.all("charge") if one["_invoice"] == invoice["id"] and one["status"] == "succeeded"]
    if status == "draft":
        if row is not None:
            yield f"{name}: a draft makes no payment, table {row.status}"
        return
    if row is None:
        if status == "paid" or (status == "open" and invoice.get("_failed")):
            yield f"{name}: Stripe has it, the table has not"
        return
    expected: Json = {"currency": invoice["currency"], "customer_id": invoice["customer"]}
    expected["subscription_id"] = invoice["_subscription"]
    match status:
        case "paid":
            expected |= {"amount": invoice["amount_paid"], "paid_at": _moment(invoice["status_transitions"]["paid_at"])}
            expected |= _outcome(charges, "succeeded", books)
        case "open":
            expected |= {"status": ("failed", "pending"), "amount_remaining": (invoice["amount_remaining"], None)}
            expected["subscription_id"] = (invoice["_subscription"], None)  # not known before an event of the invoice
        case _:
            # A part that was paid before may have been returned since.
            expected |= {"status": ("closed", "refunded", "lost") if invoice["amount_paid"] else "closed"}
    yield from _differing(name, row, expected)


def _of_session(row: Payment | None, session: Json, books: Books) -> Iterator[str]:
    name = f"Payment {session['id']}"
    if row is None:
        yield f"{name}: Stripe has it, the table has not"
        return
    intent = books.get("payment_intent", session["payment_intent"]) if session["payment_intent"] else None
    charges = [one for one in books.all("charge") if intent and one["payment_intent"] == intent["id"]]
    paid = [one for one in charges if one["status"] == "succeeded" and one["captured"]]
    expected: Json = {"amount": session["amount_total"], "currency": session["currency"]}
    expected |= {"customer_id": session["customer"]}
    if session["payment_status"] in ("paid", "no_payment_required"):
        expected |= _outcome(paid, "succeeded", books)
    elif intent is not None and intent["status"] == "canceled":
        expected |= {"status": "closed"}
    elif intent is not None and intent["status"] == "requires_payment_method":
        expected |= {"status": "failed"}
    else:
        expected |= {"status": "pending"}
    yield from _differing(name, row, expected)


def _outcome(charges: Sequence[Json], otherwise: str, books: Books) -> Json:
    """Refunds that were not lost, added up over all charges of the payment; the disputes about it."""
    ids = {charge["id"] for charge in charges}
    refunds = [one for one in books.all("refund") if one["charge"] in ids and one["status"] not in LOST]
    disputed = [one for one in books.all("dispute") if one["charge"] in ids]
    returned = sum(one["amount"] for one in refunds)
    status: tuple[str, ...] = ("refunded",) if returned else (otherwise,)
    if any(one["status"] == "lost" for one in disputed):
        status = ("lost",) if not returned else ("lost", "refunded")
    return {"status": status, "refunded_amount": returned, "on_hold": any(is_open(one) for one in disputed)}
