"""The events that only this system's own processes append: Stripe sends none of them.

A forged one could fire a timer early, or leave an entry in the audit log under another person's name. So the gateway
refuses them, whoever has signed them. It also refuses their ids under any type: the ledger applies an id once, so that
an event of Stripe's with the id of a timer to come would keep that timer from firing.
"""

from __future__ import annotations

from schemas.erasure import ERASURE_PREFIX, ERASURE_REQUESTED, GUEST_ERASURE
from schemas.plans import PLANS_APPLIED, PLANS_PREFIX
from schemas.record import IMPORT_PREFIX
from schemas.refetch import REFETCH_PREFIX
from schemas.timer import TIMER_PREFIX, timer_event_type

INTERNAL_PREFIXES = tuple(
    f"{prefix}_" for prefix in (TIMER_PREFIX, ERASURE_PREFIX, PLANS_PREFIX, REFETCH_PREFIX, IMPORT_PREFIX)
)
"""With what the ids of all events begin that this system makes (schemas/state.py, derived_id)."""


def is_internal(event_id: str, type_: str) -> bool:
    """Returns whether the event, or only its id, is that of a timer, a command, an import or a call's response."""
    return (
        type_ in (ERASURE_REQUESTED, GUEST_ERASURE, PLANS_APPLIED)
        or type_.startswith(timer_event_type(""))
        or event_id.startswith(INTERNAL_PREFIXES)
    )
