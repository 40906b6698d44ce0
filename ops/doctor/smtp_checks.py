"""Checks of the mail server: connection, EHLO, TLS and login, without sending anything."""

from __future__ import annotations

from collections.abc import Sequence

from ops.doctor.findings import CheckResult, Situation, failed, ok, warning
from sinks.email.addresses import UnusableAddress
from sinks.email.message import Composer
from sinks.email.smtp import InvalidSmtpUrl, MailNotTaken, SmtpLink, helo_name, parse_smtp_url


async def check_smtp(situation: Situation) -> Sequence[CheckResult]:
    settings = situation.settings
    try:
        server = parse_smtp_url(settings.smtp_url.get_secret_value(), allow_plaintext=settings.smtp_allow_plaintext)
        sender = Composer(situation.config.mail).sender
    except InvalidSmtpUrl as error:
        return [failed(f"BILLING_SMTP_URL: {error}", "smtps://user:password@host, or smtp+starttls://…")]
    except UnusableAddress as error:
        return [failed(str(error), "correct mail.sender")]
    link = SmtpLink(server, helo_name=helo_name(settings.smtp_helo_name, sender.domain))
    try:
        await link.ensure()
    except MailNotTaken as error:
        remedy = "check host, port, user and password of BILLING_SMTP_URL, and BILLING_SMTP_HELO_NAME"
        return [failed(f"{link.address}: {error}", remedy)]
    finally:
        await link.close()
    login = "with login" if server.username is not None else "without login"
    found = [ok(f"{link.address} answers, TLS {server.tls}, {login}")]
    if server.tls == "none":
        remedy = "smtp+starttls:// or smtps://, unless the server is on this machine or only collects mails"
        found.append(warning("mails are handed over without TLS", remedy))
    return found
