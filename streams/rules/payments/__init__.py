"""The rules of stream `payments`: methods and sources, charges, refunds, disputes, alerts (behaviours.md C6 to C10)."""

from __future__ import annotations

# Importing these modules registers their rules.
from streams.rules.payments import alerts, card_expiry, charges, disputes, intents, methods, refunds, sources
from streams.rules.payments.stream import stream

__all__ = ["alerts", "card_expiry", "charges", "disputes", "intents", "methods", "refunds", "sources", "stream"]
