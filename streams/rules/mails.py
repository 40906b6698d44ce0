"""Builds the mails' data (fields as in schemas/mail.py) and the key that makes each mail unique."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.effects import QueueEmail
from schemas.settings import Config
from schemas.state import Customer, Subscription
from schemas.urls import is_page_of_stripe
from streams.rules.subscription_row import main_item, plan_bought

DAY_S = 86_400


def mail(
    template: str, key: str, customer: Customer, data: Mapping[str, Any], *, recipient: str | None = None
) -> QueueEmail:
    """Returns a mail to a customer, with the stored name. `key` is `kind:subject`; the account is inserted here."""
    kind, _, subject = key.partition(":")
    return QueueEmail(
        key=f"{kind}:{customer.account}:{subject}",
        template=template,
        account=customer.account,
        customer_id=customer.customer_id,
        recipient=recipient,
        locale=customer.locale,
        data={"name": customer.name, **data},
    )


def money(amount: int, currency: str) -> dict[str, Any]:
    """An amount in minor units with its currency."""
    return {"amount": amount, "currency": currency}


def stripe_link(config: Config, url: str | None) -> str | None:
    """Returns a link to a page of Stripe; None for any other host, and for http."""
    return url if url is not None and is_page_of_stripe(url, config.mail.stripe_hosts) else None


def iso(moment: datetime | None) -> str | None:
    """Formats a UTC time as ISO 8601."""
    return moment.isoformat() if moment is not None else None


def price_of(row: Subscription) -> dict[str, Any] | None:
    """The price of one unit for one period; None if the price is not a single amount."""
    amount = row.price_of_unit
    return money(amount, row.currency) if amount is not None and row.currency is not None else None


def plan_name(config: Config, plan_id: str | None, price_name: str | None = None) -> str | None:
    """The plan's display name: its name, else the price's name, else its id. None if all are unknown."""
    plan = config.plans.get(plan_id) if plan_id is not None else None
    return plan.name if plan else price_name or plan_id


def plan_name_of(config: Config, row: Subscription | None) -> str | None:
    """The display name of a subscription's plan, also after its end."""
    if row is None:
        return None
    item = main_item(row.items, config)
    return plan_name(config, plan_bought(row, config), item["name"] if item is not None else None)


def days_until(moment: datetime, now: datetime) -> int:
    """The days from `now` to `moment`, rounded up."""
    return math.ceil((moment - now).total_seconds() / DAY_S)


def welcome(
    config: Config, customer: Customer, row: Subscription, organization: str, *, to: str | None
) -> list[QueueEmail]:
    """The welcome mail: one per subscription, by the first event that can name the plan (behaviours.md B1, B2)."""
    plan = plan_name_of(config, row) or row.price_id
    if plan is None:
        return []
    data = {
        "plan": plan,
        "interval": row.interval,
        "interval_count": max(row.interval_count or 1, 1),
        "price": price_of(row),
        "quantity": row.quantity,
        "trial_end": iso(row.trial_end),
        "organization": organization,
    }
    return [mail("subscription-welcome", f"welcome:{row.subscription_id}", customer, data, recipient=to)]
