"""What is checked right before mails leave. The interface is sinks/outbox/truth.py.

`CHECKS` has one check per template whose mails claim something that can change while they are queued (checks.py). Mails
to customers about what has happened have one check: whether the account is still with us. A plugin's mails to customers
have OF_PLUGIN: age, account and customer. The checks of all mails come first: mails of test mode, and optional mails
that the customer has unsubscribed from. One transaction decides about the mails of a claim, so that all its reads see
one state of the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from schemas.mail import BUILT_IN_MAILS, FACT_MAILS, OPERATOR_MAILS, OPTIONAL_MAILS
from schemas.settings import Mail as MailConfig
from sinks.email.checks import CHECKS, FACT, OF_PLUGIN, MailCheck
from sinks.email.message import QueuedMail
from sinks.email.present import Present, answers
from sinks.outbox.truth import Answer
from sinks.outbox.verdicts import NotYet, Withheld

if TYPE_CHECKING:
    from sinks.outbox.truth import Connection


class MailTruth:
    """The checks of all mails, as a Truth. `checks` replaces CHECKS in tests."""

    def __init__(self, config: MailConfig, checks: Mapping[str, MailCheck] | None = None) -> None:
        self._send_test_mode = config.send_test_mode
        self._off = frozenset(config.off)
        self._checks = CHECKS if checks is None else checks

    async def __call__(self, mails: Sequence[QueuedMail], connection: Connection) -> Sequence[Answer | Exception]:
        return await answers([self._answer(mail) for mail in mails], connection)

    async def _answer(self, mail: QueuedMail) -> Answer:
        if not mail.livemode and not self._send_test_mode:
            return Withheld("test mode: mail.send_test_mode is off")
        if mail.template in self._off:
            return Withheld("switched off: mail.off")
        if mail.is_stopped and mail.template in OPTIONAL_MAILS:
            return Withheld("the customer has unsubscribed from these mails")
        check = self._checks.get(mail.template) or _default_check(mail.template)
        answer = await check(mail, Present(mail.account, mail.customer_id)) if check is not None else None
        if mail.template in OPERATOR_MAILS or isinstance(answer, Withheld | NotYet):
            return answer
        present = {"name": mail.customer_name, "organization": mail.organization}
        names = {field: name for field, name in present.items() if name}
        return {**(mail.data if answer is None else answer), **names} if names else answer


def _default_check(template: str) -> MailCheck | None:
    if template in OPERATOR_MAILS:
        return None
    if template not in BUILT_IN_MAILS:
        return OF_PLUGIN
    return FACT if template in FACT_MAILS else None
