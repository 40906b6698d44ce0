"""The stored rows that an event refers to, collected so that a batch loads all of its rows in a few queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Ref = tuple[str, str]
"""(account, Stripe id)"""
TimersOf = tuple[str, str]
"""(kind, subject) of timers. The subject '' means any, and the kind `acme*` each of the plugin acme."""


@dataclass(slots=True)
class References:
    """Sets of (account, id).

    Loading a customer also loads its organization, user, memberships, subscriptions and payment methods, and those of
    its open timers that `timers_of` names: a customer may have hundreds, and an event is about few.
    Loading a user also loads the customers that are linked to it, with their subscriptions.
    Loading a subscription or a payment also loads its customer with all of these. Loading a payment also loads its
    links and disputes.
    """

    customers: set[Ref] = field(default_factory=set)
    subscriptions: set[Ref] = field(default_factory=set)
    payments: set[Ref] = field(default_factory=set)
    """By invoice, checkout session, charge or payment intent."""
    payment_methods: set[Ref] = field(default_factory=set)
    disputes: set[Ref] = field(default_factory=set)
    timers: set[str] = field(default_factory=set)
    """By timer key."""
    timers_of: set[TimersOf] = field(default_factory=set)
    """The open timers of the loaded customers that the rule reads, starts or cancels."""
    users: set[Ref] = field(default_factory=set)

    def update(self, others: Iterable[References]) -> None:
        for other in others:
            self.customers |= other.customers
            self.subscriptions |= other.subscriptions
            self.payments |= other.payments
            self.payment_methods |= other.payment_methods
            self.disputes |= other.disputes
            self.timers |= other.timers
            self.timers_of |= other.timers_of
            self.users |= other.users
