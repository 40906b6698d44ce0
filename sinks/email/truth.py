"""What is checked right before a mail leaves. The interface is sinks/outbox/truth.py.

`CHECKS` has one check per template whose mails claim something that can change while they are queued. The checks of all
mails come first: mails of test mode, and optional mails that the customer has unsubscribed from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from schemas.mail import OPTIONAL_MAILS
from schemas.settings import Mail as MailConfig
from sinks.email.message import QueuedMail
from sinks.outbox.truth import Answer, Truth
from sinks.outbox.verdicts import Withheld

if TYPE_CHECKING:
    from sinks.outbox.truth import Connection

CHECKS: dict[str, Truth[QueuedMail]] = {}
"""Checks by template. A template without an entry makes no claim that can become untrue."""


class MailTruth:
    """The check of all mails, as a Truth. `checks` replaces CHECKS in tests."""

    def __init__(self, config: MailConfig, checks: Mapping[str, Truth[QueuedMail]] | None = None) -> None:
        self._send_test_mode = config.send_test_mode
        self._checks = CHECKS if checks is None else checks

    async def __call__(self, mail: QueuedMail, connection: Connection) -> Answer:
        if not mail.livemode and not self._send_test_mode:
            return Withheld("test mode: mail.send_test_mode is off")
        if mail.is_stopped and mail.template in OPTIONAL_MAILS:
            return Withheld("the customer has unsubscribed from these mails")
        check = self._checks.get(mail.template)
        return await check(mail, connection) if check is not None else None
