"""Keeps personal data of erased customers out of the rows that late events write (behaviours.md B6).

A late refund or dispute is applied: amounts and statuses change. Names, addresses and cards are not stored again. The
dispatcher asks Stripe for the address of a mail that has no recipient, and does not store it either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.effects import Announce, Effect, Note, QueueEmail, Save, StartTimer
from schemas.fast_row import replace as replace_row
from schemas.known import Known
from schemas.plugin_registry import is_of_plugin
from schemas.state import PaymentMethod

_PERSONAL = frozenset({"name", "to", "brand", "last4", "exp_month", "exp_year"})
"""Fields of mails and timers with data on a person or a card."""


def without_personal_data(effect: Effect, known: Known) -> Effect:
    """Returns the effect, without personal data if it belongs to a customer who is erased.

    Which fields of a plugin are personal is not known. So it gets no mail and no timer about such a customer, but a
    note in the ledger, and its announcements keep their ids only.
    """
    match effect:
        case Save(row) if not isinstance(row, PaymentMethod):  # first, because most effects are
            return effect
        case QueueEmail(key=key) | StartTimer(key=key) if is_of_plugin(key) and _is_erased(
            known, effect.account, effect.customer_id
        ):
            what = f"mail {effect.template}" if isinstance(effect, QueueEmail) else f"timer {effect.kind}"
            return Note(f"{what} is not ordered: the customer is erased")
        case Announce() if _is_erased(known, effect.account, effect.customer_id):
            return replace(effect, data={})
        case Save(PaymentMethod() as row) if _is_erased(known, row.account, row.customer_id):
            return Save(replace_row(row, type=None, brand=None, last4=None, exp_month=None, exp_year=None))
        case QueueEmail() if _is_erased(known, effect.account, effect.customer_id):
            is_ours = effect.recipient == known.config.mail.operator
            recipient = effect.recipient if is_ours else None
            return replace(effect, recipient=recipient, locale=None, data=_without(effect.data))
        case StartTimer() if _is_erased(known, effect.account, effect.customer_id):
            return replace(effect, data=_without(effect.data))
        case _:
            return effect


def _is_erased(known: Known, account: str, customer_id: str | None) -> bool:
    customer = known.customer(account, customer_id) if customer_id is not None else None
    return customer is not None and customer.is_erased


def _without(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if name in _PERSONAL else value for name, value in data.items()}
