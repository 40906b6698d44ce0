"""The events that only this system's own processes append: Stripe sends none of them.

A forged one could fire a timer early, or leave an entry in the audit log under another person's name. So the gateway
refuses them, whoever has signed them.
"""

from __future__ import annotations

from schemas.erasure import ERASURE_REQUESTED
from schemas.plans import PLANS_APPLIED
from schemas.record import IMPORT_PREFIX
from schemas.timer import timer_event_type


def is_internal(event_id: str, type_: str) -> bool:
    """Returns whether the event is a timer, a command's event, or an object that `billing import` has read."""
    return (
        type_ in (ERASURE_REQUESTED, PLANS_APPLIED)
        or type_.startswith(timer_event_type(""))
        or event_id.startswith(f"{IMPORT_PREFIX}_")
    )
