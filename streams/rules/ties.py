"""Settles ties: two events of one second differ, so Stripe is asked for the object's present state (D2)."""

from __future__ import annotations

from typing import Any

from schemas.effects import SETTLE_A_TIE, CallStripe
from schemas.event import Event


def ask_stripe(event: Event[Any], path: str, object_id: str, customer_id: str | None) -> CallStripe:
    """Requests the object's present state, once per object and second. The response is published as an event."""
    return CallStripe(
        key=f"tie:{event.account}:{object_id}:{event.created}",
        method="GET",
        path=path,
        account=event.account,
        customer_id=customer_id,
        purpose=SETTLE_A_TIE,
    )
