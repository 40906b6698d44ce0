"""The rules of the plugin: pure functions of the event and of what is stored."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from schemas.effects import Announce, Effect, QueueEmail
from schemas.event import Event
from schemas.known import Known
from schemas.mail import CustomerMail, Line, Money
from schemas.plugin import Plugin
from schemas.references import References

LARGE = 100_000
"""Minor units from which a payment is large."""


class LargePayment(CustomerMail):
    amount: Money


class SeatsUsedUp(CustomerMail):
    seats: Line


class PaidInvoice(BaseModel):
    """What the rule reads of an invoice."""

    id: str
    customer: str
    amount_paid: int
    currency: str


class SeatReport(BaseModel):
    """The object of the own event `acme.seats_reported`."""

    id: str
    customer: str
    used: int


def _event(number: int, type_: str, obj: dict[str, object]) -> dict[str, object]:
    created = 1_800_000_000 + number
    return {
        "id": f"own_acme_{number}", "object": "event", "type": type_, "created": created, "livemode": False,
        "api_version": None, "data": {"object": obj},
    }  # fmt: skip


plugin = Plugin(
    "acme",
    templates=Path(__file__).parent / "mails",
    own_events=("acme.seats_reported",),
    notifications=("acme.large_payment",),
    examples=(
        _event(1, "acme.seats_reported", {"id": "rep_1", "customer": "cus_1", "used": 3}),
        _event(2, "acme.seats_reported", {"id": "rep_2", "customer": "cus_1", "used": 50}),
        _event(
            3,
            "invoice.paid",
            {"id": "in_1", "object": "invoice", "customer": "cus_1", "status": "paid", "amount_paid": 250_000,
             "amount_due": 250_000, "amount_remaining": 0, "currency": "eur", "created": 1_800_000_000},
        ),
    ),
)  # fmt: skip
plugin.mail("acme-large-payment", LargePayment, {"name": "Jane Doe", "amount": {"amount": 250_000, "currency": "eur"}})
plugin.mail("acme-seats-used-up", SeatsUsedUp, {"name": "Jane Doe", "seats": "50"})


def _customer(event: Event[PaidInvoice] | Event[SeatReport]) -> References:
    return References(customers={(event.account, event.object.customer)})


@plugin.on("invoice.paid", model=PaidInvoice, refer=_customer)
def on_large_payment(event: Event[PaidInvoice], known: Known) -> list[Effect]:
    """Thanks for a large payment, and announces it. The project's own rule stores the payment and sends the receipt."""
    invoice = event.object
    if invoice.amount_paid < LARGE:
        return []
    stored = known.customer(event.account, invoice.customer)
    money = {"amount": invoice.amount_paid, "currency": invoice.currency}
    return [
        QueueEmail(
            key=f"acme-large:{event.account}:{invoice.id}",
            template="acme-large-payment",
            account=event.account,
            customer_id=invoice.customer,
            locale=stored.locale if stored is not None else None,
            data={"amount": money},
        ),
        Announce(
            type="acme.large_payment",
            account=event.account,
            customer_id=invoice.customer,
            subject=invoice.id,
            data=money,
            once=invoice.id,
        ),
    ]


@plugin.on("acme.seats_reported", model=SeatReport)
def on_seats_reported(event: Event[SeatReport], known: Known) -> list[Effect]:
    """One mail when a report of the product says that most plans are used up. `known.config` has the plans."""
    report = event.object
    largest = max((plan.limits.get("seats", 0) for plan in known.config.plans.values()), default=50)
    if report.used < largest:
        return []
    return [
        QueueEmail(
            key=f"acme-seats:{event.account}:{report.customer}",
            template="acme-seats-used-up",
            account=event.account,
            customer_id=report.customer,
            data={"seats": str(report.used)},
        )
    ]
