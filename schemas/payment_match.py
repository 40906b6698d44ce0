"""Joins the rows and the links of what is one payment: for the rules, and for rows of versions before the links."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.effects import Effect, Remove, Save
from schemas.fast_row import replace, value
from schemas.known import Known
from schemas.payment_facts import derived, ids_of, joined, payment_id_of, with_ids
from schemas.state import Payment, PaymentLink
from schemas.statuses import LinkKind

Ids = Mapping[str, LinkKind]
"""Stripe ids that are one payment, with their kinds."""


@value(frozen=True, slots=True)
class Match:
    """The payment of an event: all its ids, and the row that its stored rows are together; None without one."""

    known: Known
    account: str
    ids: Ids
    stored: tuple[Payment, ...]
    row: Payment | None

    @property
    def row_or_blank(self) -> Payment:
        return self.row or with_ids(Payment(payment_id="", account=self.account), self.ids)

    def save(self, row: Payment | None = None) -> list[Effect]:
        """Returns the effects that store the row (none if it is None and there was none) and the links of its ids."""
        row = row or self.row
        payment_id = payment_id_of(self.account, self.ids)
        effects: list[Effect] = [Remove(old) for old in self.stored if old.payment_id != payment_id]
        for stripe_id, kind in self.ids.items():
            link = PaymentLink(account=self.account, stripe_id=stripe_id, payment_id=payment_id, kind=kind)
            if self.known.payment_link(self.account, stripe_id) != link:
                effects.append(Save(link))
        if row is not None and row not in self.stored:
            effects.append(Save(row))
        if row is not None and len(self.stored) > 0 and effects:
            effects += self._disputes_of(row)
        return effects

    def _disputes_of(self, row: Payment) -> list[Effect]:
        """Returns the disputes whose payment has another id now."""
        disputes = (self.known.dispute(self.account, dispute_id) for dispute_id in row.disputes)
        return [
            Save(replace(dispute, payment_id=row.payment_id, customer_id=row.customer_id))
            for dispute in disputes
            if dispute is not None and dispute.payment_id not in (None, row.payment_id)
        ]


def match(known: Known, account: str, ids: Ids) -> Match:
    """Returns the payment of these ids (at least one), joined with everything that any of them is linked to.

    Two invoices are two payments: what is linked to another invoice than the ids' own stays there.
    """
    all_ids, stored = dict(ids), {}
    waiting = list(ids)
    while waiting:
        stripe_id = waiting.pop()
        group = known.payment_ids(account, stripe_id)
        row = known.payment(account, stripe_id)
        if row is not None:
            group = {**ids_of(row), **group}
        if _is_anothers(all_ids, group):
            if stripe_id in all_ids and len(all_ids) > 1:
                del all_ids[stripe_id]
            continue
        if row is not None:
            stored[row.payment_id] = row
        waiting += group.keys() - all_ids.keys()
        all_ids |= group
    rows = tuple(stored[key] for key in sorted(stored))
    row = derived(with_ids(joined(rows), all_ids)) if rows else None
    return Match(known, account, all_ids, rows, row)


def _is_anothers(ids: Ids, group: Ids) -> bool:
    invoices = {stripe_id for stripe_id, kind in [*ids.items(), *group.items()] if kind is LinkKind.INVOICE}
    return len(invoices) > 1
