"""What is checked right before mails leave. The interface is sinks/outbox/truth.py.

`CHECKS` has one check per template whose mails claim something that can change while they are queued (checks.py). Mails
to customers about what has happened have one check: whether the account is still with us. A plugin's mails to customers
have OF_PLUGIN: age, account and deletion. The checks of all mails come first: mails of test mode, mails that are
switched off, customers who were erased, and optional mails that the customer has unsubscribed from. One transaction
decides about the mails of a claim, so that all its reads see one state of the database.

A check answers with the mail's data. The answer to the loop has it as `data`, and with it what else is true now: the
customer's address and locale, and the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from schemas.mail import BUILT_IN_MAILS, FACT_MAILS, OPERATOR_MAILS, OPTIONAL_MAILS
from schemas.settings import Mail as MailConfig
from sinks.email.checks import CHECKS, FACT, OF_PLUGIN, MailCheck
from sinks.email.message import QueuedMail
from sinks.email.present import Addressee, Present, answers
from sinks.outbox.truth import Answer
from sinks.outbox.verdicts import NotYet, Withheld

if TYPE_CHECKING:
    from sinks.outbox.truth import Connection


class MailTruth:
    """The checks of all mails, as a Truth. `checks` replaces CHECKS, and `present` Postgres' rows, in tests."""

    def __init__(
        self,
        config: MailConfig,
        checks: Mapping[str, MailCheck] | None = None,
        present: Callable[[str, str | None], Present] = Present,
    ) -> None:
        self._send_test_mode = config.send_test_mode
        self._off = frozenset(config.off)
        self._checks = CHECKS if checks is None else checks
        self._present = present

    async def __call__(self, mails: Sequence[QueuedMail], connection: Connection) -> Sequence[Answer | Exception]:
        clock = time.monotonic()
        return await answers([self._answer(mail.later(clock)) for mail in mails], connection)

    async def _answer(self, mail: QueuedMail) -> Answer:
        if not mail.livemode and not self._send_test_mode:
            return Withheld("test mode: mail.send_test_mode is off")
        if mail.template in self._off:
            return Withheld("switched off: mail.off")
        present = self._present(mail.account, mail.customer_id)
        to = Addressee() if mail.template in OPERATOR_MAILS else await present.addressee(mail.template)
        if to.is_erased:
            return Withheld("the customer has been erased")
        if to.has_unsubscribed and mail.template in OPTIONAL_MAILS:
            return Withheld("the customer has unsubscribed from these mails")
        check = self._checks.get(mail.template) or _default_check(mail.template)
        answer = await check(mail, present) if check is not None else None
        if isinstance(answer, Withheld | NotYet):
            return answer
        names = {field: name for field, name in (("name", to.name), ("organization", to.organization)) if name}
        values: dict[str, Any] = {"data": {**(mail.data if answer is None else answer), **names}}
        values |= {"customer_email": to.email, "customer_locale": to.locale}
        return values | {"now": mail.now, "age": mail.age, "clock": mail.clock}


def _default_check(template: str) -> MailCheck | None:
    if template in OPERATOR_MAILS:
        return None
    if template not in BUILT_IN_MAILS:
        return OF_PLUGIN
    return FACT if template in FACT_MAILS else None
