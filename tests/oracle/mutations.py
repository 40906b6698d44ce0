"""Mistakes made on purpose: each takes one thing back that the rules do right, and the simulated lives must notice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import pytest

import schemas.stripe.customer
import schemas.stripe.dispute
import schemas.stripe.fields
import schemas.stripe.invoice
import schemas.stripe.refund
import schemas.version
import streams.rules.payments.refund_total
import streams.rules.payments.row
from schemas.event import Event
from schemas.known import Known
from schemas.settings import Config, DunningStep
from schemas.state import Customer, Payment, PaymentMethod, Subscription, User
from schemas.stripe.invoice import StripeInvoice
from schemas.version import Version
from streams.rules import same_second, subscription_row
from streams.rules.customers import account
from streams.rules.invoices import dunning
from streams.rules.payments import card_expiry
from streams.rules.payments.row import invoice_changed
from streams.rules.subscriptions import invoice_facts

Mutation = Callable[[pytest.MonkeyPatch], None]


def replace_everywhere(patch: pytest.MonkeyPatch, original: object, replacement: object) -> None:
    """Replaces an object under every name that one of our modules has for it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("schemas.", "streams.")):
            for name in [name for name, value in vars(module).items() if value is original]:
                patch.setattr(module, name, replacement)


def last_arrival_wins(patch: pytest.MonkeyPatch) -> None:
    """The version of an event is when it arrived, not when it was created."""
    arrivals = count(1)

    def version(created: int, rank: int, event_id: str, *, terminal: bool = False) -> Version:
        return Version(f"0:{next(arrivals):012}:{rank:02}:{event_id}")

    replace_everywhere(patch, schemas.version.version, version)


def failed_refunds_count(patch: pytest.MonkeyPatch) -> None:
    """A refund that failed stays subtracted, whether its status or its event's type says so."""
    replace_everywhere(patch, schemas.stripe.refund.LOST, frozenset())
    patch.setattr(streams.rules.payments.refund_total, "REFUND_FAILED", None)


def lost_disputes_stay_open(patch: pytest.MonkeyPatch) -> None:
    """Only a dispute that was won is closed."""
    replace_everywhere(patch, schemas.stripe.dispute.CLOSED, frozenset({"won"}))


def older_shape_only(patch: pytest.MonkeyPatch) -> None:
    """An invoice's subscription is read where it was before 2025-03-31 (basil)."""
    patch.setattr(schemas.stripe.invoice, "child", partial(_child_without, "parent"))


def user_of_checkout_only(patch: pytest.MonkeyPatch) -> None:
    """`metadata.userId` of a customer is not read."""
    patch.setattr(schemas.stripe.customer, "child", partial(_child_without, "metadata"))


def _child_without(left_out: str, parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {} if name == left_out else schemas.stripe.fields.child(parent, name)


def any_invoice_moves_the_status(patch: pytest.MonkeyPatch) -> None:
    """Before: the newest event of any invoice decided, and not only the latest invoice (behaviours.md C1, C2)."""

    def latest_of(row: Subscription) -> str | None:
        def newest(id_: str) -> str:
            return str(max(row.invoices[id_].get("paid", ""), row.invoices[id_].get("failed", "")))

        return max(row.invoices, key=newest, default=None)

    patch.setattr(invoice_facts, "latest_of", latest_of)


def the_first_item_decides(patch: pytest.MonkeyPatch) -> None:
    """Before: only the first item of a subscription was read (B7)."""

    def main_item(items: Sequence[Any], config: Config) -> Any:
        return items[0] if items else None

    replace_everywhere(patch, subscription_row.main_item, main_item)


def voided_invoices_stay_pending(patch: pytest.MonkeyPatch) -> None:
    """Before: a voided, written off or deleted invoice changed nothing of its payment (C15)."""

    def invoice_closed(row: Payment, event: Event[Any], customer_id: str | None) -> Payment:
        return invoice_changed(row, event, customer_id)

    replace_everywhere(patch, streams.rules.payments.row.invoice_closed, invoice_closed)


def the_first_decline_is_final(patch: pytest.MonkeyPatch) -> None:
    """Before: an attempt without a next one got the final notice, also the first of all (C3)."""
    step_of = dunning.step_of

    def first_is_final(steps: tuple[DunningStep, ...], invoice: StripeInvoice) -> DunningStep | None:
        final = next((step for step in steps if step.final), None)
        return final if invoice.next_payment_attempt is None else step_of(steps, invoice)

    patch.setattr(dunning, "step_of", first_is_final)


def ties_go_by_id(patch: pytest.MonkeyPatch) -> None:
    """Before: of two updates of one second the greater id won, whatever the previous attributes say (D2)."""
    patch.setattr(same_second, "latest_of", lambda tied, *_: max(tied, key=lambda one: one["version"]))
    patch.setattr(same_second, "is_undecided", lambda *_: False)


def the_smallest_plan_counts(patch: pytest.MonkeyPatch) -> None:
    """Before: of several subscriptions that give access the first one decided the plan (B7)."""
    patch.setattr(Config, "size_of_plan", lambda _config, _plan_id: 0)


def another_customer_does_not_count(patch: pytest.MonkeyPatch) -> None:
    """Before: who has another Stripe customer with a running subscription was won back and erased (B4)."""
    replace_everywhere(patch, account.is_in_use_by_another, lambda _known, _customer: False)
    replace_everywhere(patch, account.subscriptions_of_user, lambda _known, _customer: [])


def the_last_customer_names_the_user(patch: pytest.MonkeyPatch) -> None:
    """Before: a user had the address of the customer whose event came last, also none."""

    def user_with_address(known: Known, user_id: str, customer: Customer) -> User:
        return User(account=customer.account, user_id=user_id, email=customer.email)

    replace_everywhere(patch, account.user_with_address, user_with_address)


def the_default_card_is_announced(patch: pytest.MonkeyPatch) -> None:
    """Before: the expiry of the customer's default was announced, also if the subscription has its own card (C6)."""

    def is_in_use(known: Known, customer: Customer, row: PaymentMethod) -> bool:
        return row.detached_at is None and customer.default_payment_method == row.payment_method_id

    patch.setattr(card_expiry, "_is_in_use", is_in_use)


REVERTED: tuple[Mutation, ...] = (
    any_invoice_moves_the_status,
    the_first_item_decides,
    the_smallest_plan_counts,
    voided_invoices_stay_pending,
    the_first_decline_is_final,
    ties_go_by_id,
    another_customer_does_not_count,
    the_last_customer_names_the_user,
    the_default_card_is_announced,
)
"""Each takes back a correction: the rules do again what they did before it."""

MUTATIONS: tuple[Mutation, ...] = (
    *REVERTED,
    last_arrival_wins,
    failed_refunds_count,
    lost_disputes_stay_open,
    older_shape_only,
    user_of_checkout_only,
)
