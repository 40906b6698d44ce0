"""Names that a plugin may not have, because names of the project or types of Stripe's events begin with them.

A plugin's names begin with its own and `.`, `-` or `:`. So a key, a kind or a type always shows whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable

_OF_STRIPE = frozenset(
    {
        *("account", "accounts", "application", "apps", "balance", "billing", "capability", "cash", "charge"),
        *("checkout", "climate", "core", "coupon", "credit", "customer", "dispute", "entitlements", "event", "events"),
        *("exchange", "external", "file", "financial", "forwarding", "identity", "invoice", "invoiceitem", "issuing"),
        *("issuer", "mandate", "order", "payment", "payout", "person", "plan", "price", "product", "promotion"),
        *("quote", "radar", "recipient", "refund", "reporting", "reserve", "review", "setup", "sigma", "sku", "source"),
        *("subscription", "tax", "terminal", "test", "ping", "topup", "transfer", "treasury", "v1", "v2"),
    }
)
"""The first words of the types of Stripe's events."""

_OF_THE_PROJECT = frozenset(
    {
        *("access", "action", "canceled", "card", "churn", "deleted", "dunning", "erase", "erased", "erasure"),
        *("export", "finalization", "fraud", "method", "notification", "operator", "overdue", "own", "plans"),
        *("receipt", "reminder", "renewal", "retry", "survey", "tie", "timer", "topic", "trial", "welcome", "win"),
    }
)
"""The first words of its types, mails, notifications, kinds of timers and keys."""

RESERVED = _OF_STRIPE | _OF_THE_PROJECT


def belongs_to(text: str, plugins: Iterable[str]) -> bool:
    """Whether a key, a kind or a type belongs to one of the plugins with these names."""
    return any(text.startswith((f"{name}.", f"{name}-", f"{name}:")) for name in plugins)
