"""Composes the message of an outbox row. Every fault of the mail itself is detected here, before SMTP."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, default
from email.utils import format_datetime
from typing import Any

from pydantic import ValidationError

from schemas.errors import BillingError
from schemas.export_link import export_url
from schemas.mail import (
    OPERATOR_MAILS,
    OPTIONAL_MAILS,
    MailData,
    SubscriptionCanceled,
    UnknownTemplate,
    read_mail,
)
from schemas.portal_link import PortalLink, portal_url
from schemas.settings import Mail as MailConfig
from sinks.email.addresses import Mailbox, UnusableAddress, read_address, read_mailbox
from sinks.email.localize import UnknownCurrency
from sinks.email.mime import LONGEST_LINE, mail_bytes
from sinks.email.rendering import Rendered, RenderingFailed, Templates
from sinks.email.unsubscribe import Subscriber, unsubscribe_url

_DIGEST_LENGTH = 40
_LOCAL_LINK = re.compile(r"https?://(?:localhost|127\.[0-9.]+|0\.0\.0\.0|\[::1?\])(?![\w.-])", re.IGNORECASE)
"""A mail of live mode with such a link is not sent, wherever the link comes from."""


class UnsendableMail(BillingError):
    """The mail can never be sent in its present form. The message gives the reason, without personal data."""


class RecipientUnknown(BillingError):
    """The customer's address is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMail:
    """One claimed row of `billing.emails`. The check before sending adds its customer's address and locale (truth.py).

    `attempts` includes the current try. `now` (UTC) is Postgres' time, `age` the time since the mail was queued, both
    at the claim, and then at the check. `deadline` is the time.monotonic() at which the claim expires.
    """

    key: str
    event_id: str
    account: str
    customer_id: str | None
    template: str
    recipient: str | None
    locale: str | None
    livemode: bool
    data: Mapping[str, Any]
    attempts: int
    now: datetime
    age: timedelta = timedelta(0)
    deadline: float = math.inf
    status: str = "sending"
    last_error: str | None = None
    is_shadow: bool = False
    """Whether shadow mode was on at the claim."""
    customer_email: str | None = None
    customer_locale: str | None = None
    clock: float | None = None
    """The time.monotonic() of `now`. None: `now` stays as it is."""

    def later(self, clock: float) -> QueuedMail:
        """Return the mail at this time.monotonic()."""
        if self.clock is None:
            return self
        passed = timedelta(seconds=max(clock - self.clock, 0.0))
        return replace(self, now=self.now + passed, age=self.age + passed, clock=clock)


@dataclass(frozen=True, slots=True)
class ComposedMail:
    """A message ready for SMTP, and its recipient."""

    content: bytes
    """The bytes sent to the server: lines end with CRLF; ASCII unless the recipient's address is not ASCII."""
    message_id: str
    recipient: Mailbox

    @property
    def message(self) -> EmailMessage:
        """The message as a receiver parses it."""
        return message_from_bytes(self.content.replace(b"\r\n", b"\n"), policy=default)

    @property
    def needs_utf8(self) -> bool:
        """Whether the server must offer SMTPUTF8."""
        return not self.recipient.local.isascii()


class Composer:
    """Composes mails. The constructor raises UnusableAddress if an address in the configuration is invalid."""

    def __init__(self, config: MailConfig, *, link_secret: bytes | None = None, public_url: str | None = None) -> None:
        """`public_url` is the gateway's public address, used in links; the default is `app_url`."""
        self._config = config
        self._public_url = (public_url or config.app_url).rstrip("/")
        self._link_secret = link_secret
        self._sender = read_mailbox(config.sender)
        self._operator = read_mailbox(config.operator)
        self._reply_to = read_mailbox(config.reply_to) if config.reply_to else None
        self._templates = Templates.of(config)
        self._sender_shown = self._sender.shown
        self._reply_to_shown = self._reply_to.shown if self._reply_to is not None else None

    @property
    def sender(self) -> Mailbox:
        return self._sender

    def compose(self, mail: QueuedMail, now: datetime) -> ComposedMail:
        """Compose the message of `mail`.

        The result depends only on the row, except for its date and the expiry of an export link.
        Raises RecipientUnknown, UnsendableMail.
        """
        recipient = self._recipient(mail)
        unsubscribe = self._unsubscribe_link(mail)
        # The customer may have chosen another language since the mail was queued.
        reader_locale = None if mail.template in OPERATOR_MAILS else mail.customer_locale
        locales = (reader_locale, mail.locale, self._config.default_locale)
        try:
            data = self._with_export_link(read_mail(mail.template, mail.data, strict=False), now)
            data = self._with_portal_link(data, mail, now)
            rendered = self._templates.render(mail.template, data, locales, unsubscribe_url=unsubscribe)
        except ValidationError as error:
            raise UnsendableMail(f"data of {mail.template}: {_without_input(error)}") from None
        except UnknownTemplate:
            raise UnsendableMail(f"no template {mail.template}") from None
        except UnknownCurrency as error:
            raise UnsendableMail(f"unknown currency {error}") from None
        except RenderingFailed as error:
            raise UnsendableMail(f"template {error}") from None
        if mail.livemode and (found := _LOCAL_LINK.search(rendered.html) or _LOCAL_LINK.search(rendered.text)):
            raise UnsendableMail(f"a link to this machine: {found[0]}")
        key = message_id(mail.key, self._sender.domain)
        headers: list[tuple[str, str]] = [
            ("From", self._sender_shown),
            ("To", recipient.shown),
            ("Subject", rendered.subject),
            ("Date", format_datetime(now)),
            ("Message-ID", key),
            ("Auto-Submitted", "auto-generated"),
        ]
        if self._reply_to_shown is not None and mail.template not in OPERATOR_MAILS:
            headers.append(("Reply-To", self._reply_to_shown))
        if mail.template in OPTIONAL_MAILS:
            headers += self._unsubscribe_headers(unsubscribe)
        return ComposedMail(self._content(headers, rendered, key, recipient), key, recipient)

    def _content(self, headers: Sequence[tuple[str, str]], rendered: Rendered, key: str, recipient: Mailbox) -> bytes:
        """The bytes of the message, by the quick way if every header is short and ASCII."""
        quick = mail_bytes(headers, rendered, f"=_{key.strip('<>').partition('@')[0]}")
        if quick is not None:
            return quick
        addresses = {"From": self._sender, "To": recipient, "Reply-To": self._reply_to}
        found = {name: mailbox.header for name, mailbox in addresses.items() if mailbox is not None}
        return slow_content([(name, found.get(name, value)) for name, value in headers], rendered, recipient)

    def _recipient(self, mail: QueuedMail) -> Mailbox:
        for_operator = mail.template in OPERATOR_MAILS
        if for_operator and mail.recipient is None:
            return self._operator
        # The customer may have corrected the address since the invoice or the checkout that the queued one comes from.
        address = mail.recipient if for_operator else mail.customer_email or mail.recipient
        if not address:
            raise RecipientUnknown
        try:
            return read_mailbox(address) if for_operator else read_address(address)
        except UnusableAddress as error:
            raise UnsendableMail(str(error)) from None

    def _unsubscribe_link(self, mail: QueuedMail) -> str | None:
        if mail.template not in OPTIONAL_MAILS or self._link_secret is None or mail.customer_id is None:
            return None
        subscriber = Subscriber(mail.account, mail.customer_id, mail.template)
        return unsubscribe_url(self._public_url, self._link_secret, subscriber)

    def _with_export_link(self, data: MailData, now: datetime) -> MailData:
        if not isinstance(data, SubscriptionCanceled) or data.export_id is None or self._link_secret is None:
            return data
        until = now + timedelta(days=self._config.export_link_days)
        link = export_url(self._public_url, self._link_secret, data.export_id, until)
        return data.model_copy(update={"export_url": link})

    def _with_portal_link(self, data: MailData, mail: QueuedMail, now: datetime) -> MailData:
        """Replaces the address of "update payment method" by a link to the customer's portal at Stripe."""
        config = self._config
        if not config.customer_portal or mail.customer_id is None or self._link_secret is None:
            return data
        link = PortalLink(mail.account, mail.customer_id, now + timedelta(days=config.portal_link_days))
        url = portal_url(self._public_url, self._link_secret, link)
        # A confirmation without a page at Stripe has that address as `hosted_url`.
        to_change = [
            name
            for name in type(data).model_fields
            if name == "update_url" or getattr(data, name) == config.update_payment_url
        ]
        changed = {name: url for name in to_change if getattr(data, name) is not None}
        return data.model_copy(update=changed) if changed else data

    def _unsubscribe_headers(self, link: str | None) -> list[tuple[str, str]]:
        by_mail = f"<mailto:{(self._reply_to or self._sender).addr_spec}?subject=unsubscribe>"
        if link is None:
            return [("List-Unsubscribe", by_mail)]
        return [
            ("List-Unsubscribe", f"<{link}>, {by_mail}"),
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ]


def slow_content(headers: Sequence[tuple[str, str | Address]], rendered: Rendered, recipient: Mailbox) -> bytes:
    """The bytes of the message, with headers that are encoded and folded where necessary."""
    message = EmailMessage(policy=SMTP)
    for name, value in headers:
        message[name] = value
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    # Folding at 78 columns would put a subject of about 75 characters on the line after `Subject:`. Only subjects
    # with encoded words need this folding.
    columns = LONGEST_LINE if str(message["Subject"]).isascii() else 78
    is_utf8 = not recipient.local.isascii()
    return message.as_bytes(policy=SMTP.clone(max_line_length=columns, utf8=is_utf8))


def message_id(email_key: str, domain: str) -> str:
    """The Message-ID, equal for every try of a mail, so that receivers can drop a second copy (behaviours.md D8)."""
    return f"<{hashlib.sha256(email_key.encode()).hexdigest()[:_DIGEST_LENGTH]}@{domain}>"


def _without_input(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
