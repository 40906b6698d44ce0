"""Builds events in Stripe's format for the demo, `billing trigger` and the tests.

Each object exists in two API shapes (https://docs.stripe.com/changelog): OLD is the last before 2025-03-31.basil, NEW
is 2025-11-17.clover. The default values are those of an ordinary subscription of 29 euros a month.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Json = dict[str, Any]

DAY_S = 86_400
MONTH_S = 30 * DAY_S


class ApiShape(StrEnum):
    """A Stripe API version, which determines the format of objects."""

    OLD = "2025-02-24.acacia"
    NEW = "2025-11-17.clover"


@dataclass(frozen=True, slots=True)
class Price:
    """A Stripe price. `amount` is in minor units."""

    id: str = "price_pro"
    amount: int = 2900
    currency: str = "eur"
    interval: str = "month"
    nickname: str | None = None


PRO = Price()


@dataclass(frozen=True, slots=True)
class StripeEvents:
    """Builds events of one account in one API shape. `account` is the id of a connected account, None for our own."""

    shape: ApiShape = ApiShape.NEW
    account: str | None = None
    livemode: bool = False

    def event(
        self, type_: str, obj: Json, created: int, *, previous: Mapping[str, Any] | None = None, id_: str | None = None
    ) -> Json:
        """Return an event that contains `obj`. `created` is in seconds since the epoch; the id is random by default."""
        data: Json = {"object": obj}
        if previous is not None:
            data["previous_attributes"] = dict(previous)
        envelope: Json = {
            "id": id_ or f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "api_version": str(self.shape),
            "created": created,
            "data": data,
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "request": {"id": f"req_{secrets.token_hex(7)}", "idempotency_key": None},
            "type": type_,
        }
        return envelope | ({"account": self.account} if self.account else {})

    def customer(
        self,
        id_: str = "cus_1",
        *,
        email: str | None = "jane@example.com",
        name: str | None = "Jane Doe",
        created: int = 0,
        **more: Any,
    ) -> Json:
        return {
            "id": id_,
            "object": "customer",
            "balance": 0,
            "created": created,
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": None,
            "email": email,
            "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
            "livemode": self.livemode,
            "metadata": {},
            "name": name,
            "phone": None,
            "preferred_locales": [],
            "tax_exempt": "none",
        } | more

    def subscription(
        self,
        id_: str = "sub_1",
        *,
        customer: str = "cus_1",
        status: str = "active",
        price: Price = PRO,
        start: int = 0,
        end: int | None = None,
        created: int | None = None,
        quantity: int = 1,
        **more: Any,
    ) -> Json:
        """Return a subscription. `start` and `end` are those of the current period; `created` is `start` by default."""
        created = start if created is None else created
        period = {"current_period_start": start, "current_period_end": start + MONTH_S if end is None else end}
        item: Json = {
            "id": f"si_{id_.removeprefix('sub_')}",
            "object": "subscription_item",
            "created": created,
            "metadata": {},
            "plan": _plan(price),
            "price": _price(price),
            "quantity": quantity,
            "subscription": id_,
        }
        subscription: Json = {
            "id": id_,
            "object": "subscription",
            "billing_cycle_anchor": start,
            "cancel_at": None,
            "cancel_at_period_end": False,
            "canceled_at": None,
            "collection_method": "charge_automatically",
            "created": created,
            "currency": price.currency,
            "customer": customer,
            "default_payment_method": None,
            "ended_at": None,
            "items": _list([item], f"/v1/subscription_items?subscription={id_}"),
            "latest_invoice": f"in_{id_.removeprefix('sub_')}",
            "livemode": self.livemode,
            "metadata": {},
            "start_date": created,
            "status": status,
            "trial_end": None,
            "trial_start": None,
        }
        if self.shape is ApiShape.OLD:
            subscription |= period | {"plan": _plan(price), "quantity": quantity}
        else:
            item |= period
            subscription["billing_mode"] = {"type": "flexible"}
        return subscription | more

    def price_change(self, former: Price) -> Json:
        """Return `previous_attributes` of an update that changed the price."""
        items = {"data": [{"plan": _plan(former), "price": _price(former)}]}
        return {"items": items} | ({"plan": _plan(former)} if self.shape is ApiShape.OLD else {})

    def invoice(
        self,
        id_: str | None = "in_1",
        *,
        customer: str | None = "cus_1",
        subscription: str | None = "sub_1",
        price: Price = PRO,
        status: str = "open",
        amount: int | None = None,
        created: int = 0,
        reason: str = "subscription_cycle",
        attempts: int = 1,
        next_attempt: int | None = None,
        paid_at: int | None = None,
        email: str | None = "jane@example.com",
        name: str | None = "Jane Doe",
        **more: Any,
    ) -> Json:
        """Return an invoice. `amount` is the amount due, by default the price. `id_` is None for `invoice.upcoming`."""
        amount = price.amount if amount is None else amount
        is_paid = status == "paid"
        hosted = f"https://invoice.stripe.com/i/acct_1/{id_}" if id_ else None
        invoice: Json = {
            "object": "invoice",
            "amount_due": amount,
            "amount_paid": amount if is_paid else 0,
            "amount_remaining": 0 if is_paid else amount,
            "attempt_count": attempts,
            "attempted": attempts > 0,
            "auto_advance": not is_paid,
            "billing_reason": reason,
            "collection_method": "charge_automatically",
            "created": created,
            "currency": price.currency,
            "customer": customer,
            "customer_email": email,
            "customer_name": name,
            "due_date": None,
            "hosted_invoice_url": hosted,
            "invoice_pdf": f"{hosted}/pdf" if hosted else None,
            "last_finalization_error": None,
            "lines": _list([self._line(subscription, price, amount, created)], f"/v1/invoices/{id_}/lines"),
            "livemode": self.livemode,
            "metadata": {},
            "next_payment_attempt": next_attempt,
            "number": f"R-{id_.removeprefix('in_')}" if id_ else None,
            "period_end": created,
            "period_start": created,
            "status": status,
            "status_transitions": {
                "finalized_at": created,
                "marked_uncollectible_at": None,
                "paid_at": paid_at if paid_at is not None else (created if is_paid else None),
                "voided_at": None,
            },
            "subtotal": amount,
            "total": amount,
        }
        if id_ is not None:
            invoice["id"] = id_
        if self.shape is ApiShape.OLD:
            own = id_.removeprefix("in_") if id_ else ""
            invoice |= {
                "subscription": subscription,
                "paid": is_paid,
                "charge": f"ch_{own}" if own else None,
                "payment_intent": f"pi_{own}" if own else None,
                "discount": None,
                "tax": None,
            }
        else:
            details: Json = {"metadata": {}, "subscription": subscription}
            is_subscribed = subscription is not None
            invoice["parent"] = (
                {"quote_details": None, "subscription_details": details, "type": "subscription_details"}
                if is_subscribed
                else None
            )
        return invoice | more

    def checkout_session(
        self,
        id_: str = "cs_test_1",
        *,
        customer: str | None = "cus_1",
        mode: str = "subscription",
        subscription: str | None = "sub_1",
        payment_status: str = "paid",
        status: str = "complete",
        amount: int | None = 2900,
        currency: str | None = "eur",
        email: str | None = "jane@example.com",
        name: str | None = "Jane Doe",
        user: str | None = None,
        plan: str | None = None,
        created: int = 0,
        **more: Any,
    ) -> Json:
        """Return a checkout session. `user` and `plan` go into `metadata.userId` and `metadata.planId`."""
        metadata = {key: value for key, value in (("userId", user), ("planId", plan)) if value is not None}
        is_payment = mode == "payment"
        details: Json = {
            "address": None,
            "email": email,
            "name": name,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }
        return {
            "id": id_,
            "object": "checkout.session",
            "amount_subtotal": amount,
            "amount_total": amount,
            "client_reference_id": None,
            "created": created,
            "currency": currency,
            "customer": customer,
            "customer_details": details if email else None,
            "customer_email": None,
            "expires_at": created + DAY_S,
            "invoice": None,
            "livemode": self.livemode,
            "locale": None,
            "metadata": metadata,
            "mode": mode,
            "payment_intent": f"pi_{id_}" if is_payment else None,
            "payment_status": payment_status,
            "status": status,
            "subscription": None if is_payment else subscription,
            "ui_mode": "hosted",
        } | more

    def _line(self, subscription: str | None, price: Price, amount: int, start: int) -> Json:
        line: Json = {
            "id": f"il_{secrets.token_hex(6)}",
            "object": "line_item",
            "amount": amount,
            "currency": price.currency,
            "description": f"1x {price.nickname or price.id}",
            "livemode": self.livemode,
            "metadata": {},
            "period": {"start": start, "end": start + MONTH_S},
            "quantity": 1,
        }
        kind = "subscription" if subscription else "invoiceitem"
        if self.shape is ApiShape.OLD:
            own = {"plan": _plan(price), "price": _price(price), "proration": False}
            return line | own | {"subscription": subscription, "type": kind}
        details: Json = {"proration": False, "subscription": subscription, "subscription_item": f"si_{subscription}"}
        key = "subscription_item_details" if subscription else "invoice_item_details"
        pricing = {"price_details": {"price": price.id, "product": f"prod_{price.id}"}, "type": "price_details"}
        return line | {"parent": {key: details, "type": key}, "pricing": pricing}


def _price(price: Price) -> Json:
    return {
        "id": price.id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "currency": price.currency,
        "nickname": price.nickname,
        "product": f"prod_{price.id}",
        "recurring": {"interval": price.interval, "interval_count": 1, "usage_type": "licensed"},
        "type": "recurring",
        "unit_amount": price.amount,
        "unit_amount_decimal": str(price.amount),
    }


def _plan(price: Price) -> Json:
    return {
        "id": price.id,
        "object": "plan",
        "active": True,
        "amount": price.amount,
        "currency": price.currency,
        "interval": price.interval,
        "interval_count": 1,
        "nickname": price.nickname,
        "product": f"prod_{price.id}",
    }


def _list(data: list[Json], url: str) -> Json:
    return {"object": "list", "data": data, "has_more": False, "total_count": len(data), "url": url}
