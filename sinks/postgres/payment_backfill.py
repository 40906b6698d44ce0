"""The backfill of revision 0013: stored payments get links and statuses, and rows that are one payment are joined.

The worker does the same with each row that it changes, so the system works before the backfill is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import asyncpg

from schemas.effects import Remove, Save
from schemas.fast_row import replace
from schemas.known import Known
from schemas.payment_facts import ids_of
from schemas.payment_match import match
from schemas.settings import Config
from schemas.state import Dispute, Payment, PaymentLink, Row
from sinks.postgres import loading
from sinks.postgres.store import Transaction

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_IDS = """
SELECT p.account, i.id FROM billing.payments p
CROSS JOIN unnest(ARRAY[p.invoice_id, p.checkout_session_id, p.payment_intent_id, p.charge_id]) AS i (id)
WHERE p.payment_id = ANY($1::text[]) AND i.id IS NOT NULL
"""
_DISPUTES = """
SELECT d.account, d.dispute_id FROM unnest($1::text[], $2::text[]) AS r (account, id)
JOIN billing.disputes d ON d.account = r.account AND d.charge_id = r.id
"""
_KINDS: tuple[type[Row], ...] = (PaymentLink, Payment, Dispute)


async def join_payments(connection: Connection, payment_ids: Sequence[str]) -> None:
    """Stores the payments as the worker would today. Locks rows in its order. Raises Conflict and the driver's errors.

    A row with one of these ids that another payment's row contains is removed, wherever it is in the table.
    """
    refs = {(row["account"], row["id"]) for row in await connection.fetch(_IDS, list(payment_ids))}
    links, payments = await loading.load_payments(connection, refs)
    # What a loaded row names may be another row: an invoice's intent that is also a purchase's.
    refs |= {(row.account, stripe_id) for row in payments for stripe_id in ids_of(row)}
    links, payments = await loading.load_payments(connection, refs)
    named = sorted(refs)
    found = await connection.fetch(_DISPUTES, [account for account, _ in named], [id_ for _, id_ in named])
    disputes = await loading.load_disputes(connection, {(row["account"], row["dispute_id"]) for row in found})
    known = Known(Config(), [*links, *payments, *disputes])
    for dispute in disputes:
        payment = known.payment(dispute.account, dispute.charge_id or "")
        if payment is not None:  # only open disputes were stored in the payment
            known.save(replace(payment, disputes={**payment.disputes, dispute.dispute_id: dispute.status}))
    _join(known, payments)
    transaction = Transaction(connection)
    for kind in _KINDS:
        await transaction.write_changes(kind, *known.changed(kind))


def _join(known: Known, payments: Iterable[Payment]) -> None:
    for payment in payments:
        if ids := ids_of(payment):
            for effect in match(known, payment.account, ids).save():
                _apply(known, effect)


def _apply(known: Known, effect: object) -> None:
    if isinstance(effect, Save):
        known.save(effect.row)
    elif isinstance(effect, Remove):
        known.remove(effect.row)
