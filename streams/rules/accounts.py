"""The rules of stream `accounts`: connected accounts (behaviours.md C12).

The ledger records the types, and no rule changes a row: nothing depends on what an account may do, and the account id
is part of the key of every row that its events write.
"""

from __future__ import annotations

from typing import Any

from schemas.effects import Effect
from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.stripe.account import StripeAccount, StripeApplication
from streams.rules.registry import Stream

stream = Stream("accounts")


def refer(event: Event[Any]) -> References:  # noqa: ARG001  # the rule reads no stored rows
    return References()


@stream.on("account.updated", model=StripeAccount, refer=refer)
def on_updated(event: Event[StripeAccount], known: Known) -> list[Effect]:  # noqa: ARG001  # all rules have one signature
    if event.account and event.account != event.object.id:
        raise RuleViolated(f"the event is from account {event.account}, but its object is {event.object.id}")
    return []


@stream.on("account.application.authorized", model=StripeApplication, refer=refer, rank=80)
@stream.on("account.application.deauthorized", model=StripeApplication, refer=refer, rank=90)
def on_deauthorized(event: Event[StripeApplication], known: Known) -> list[Effect]:  # noqa: ARG001  # as above
    """The object is the platform's own application; only the envelope names the account that left it, or joined it.

    The check before a mail leaves reads these events in the ledger (sinks/email/present.py).
    """
    if not event.account:
        raise RuleViolated("no account: it is unknown which account left the application")
    return []
