"""How a subscription ends: at the end of its period, at a date, at once, for non-payment, by a dispute."""

from __future__ import annotations

from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.invoices import delete_draft, mark_uncollectible
from local.stripe.simulator.subscriptions import ENDED, change, is_latest, period_of


def cancel_at_period_end(books: Books, subscription: Json) -> None:
    """Under flexible billing only `cancel_at` is set; `cancel_at_period_end` stays false."""
    is_flexible = subscription["billing_mode"]["type"] == "flexible"
    end_at = period_of(subscription)[1]
    _plan(books, subscription, end_at, at_period_end=not is_flexible)


def cancel_at(books: Books, subscription: Json, moment: int) -> None:
    _plan(books, subscription, moment, at_period_end=False)


def undo(books: Books, subscription: Json) -> None:
    change(
        books,
        subscription,
        cancel_at=None,
        cancel_at_period_end=False,
        canceled_at=None,
        cancellation_details=_details(None),
    )


def end(books: Books, subscription: Json, reason: str | None = "cancellation_requested") -> None:
    """Ends it now. Drafts of it are deleted; what is open stays open, without further attempts."""
    if subscription["status"] in ENDED:
        return
    asked_at = subscription["canceled_at"] or books.now
    subscription.update(
        status="canceled",
        canceled_at=asked_at,
        ended_at=books.now,
        cancellation_details=_details(reason),
        pending_update=None,
    )
    books.emit("customer.subscription.deleted", subscription)
    for invoice in books.of("invoice", subscription["customer"]):
        if invoice["_subscription"] != subscription["id"]:
            continue
        if invoice["status"] == "draft":
            delete_draft(books, invoice)
        elif invoice["status"] == "open":
            with books.change(invoice):
                invoice.update(auto_advance=False, next_payment_attempt=None)


def on_gave_up(books: Books, invoice: Json) -> None:
    """The last planned attempt has failed."""
    subscription = books.get("subscription", invoice["_subscription"])
    if not is_latest(subscription, invoice) or subscription["status"] != "past_due":
        return
    match books.settings.after_retries:
        case "cancel":
            end(books, subscription, "payment_failed")
        case "unpaid":
            change(books, subscription, status="unpaid")
    if books.settings.unpaid_invoice == "uncollectible":
        mark_uncollectible(books, invoice)


def _plan(books: Books, subscription: Json, moment: int, *, at_period_end: bool) -> None:
    change(
        books,
        subscription,
        cancel_at=moment,
        cancel_at_period_end=at_period_end,
        canceled_at=books.now,
        cancellation_details=_details("cancellation_requested"),
    )
    books.clock.at(moment, lambda: _end_if_planned(books, subscription, moment))


def _end_if_planned(books: Books, subscription: Json, moment: int) -> None:
    if subscription["cancel_at"] == moment:
        end(books, subscription)


def _details(reason: str | None) -> Json:
    return {"comment": None, "feedback": None, "reason": reason}
