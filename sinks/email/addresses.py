"""Before the SMTP conversation: is this an address that mail can be sent to, and in which form?

What Stripe stores as a customer's e-mail was typed by someone. It goes into a header and onto an SMTP command line, so
nothing passes that could end either.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.headerregistry import Address
from email.utils import parseaddr

import idna

from schemas.mail import one_line

# RFC 5321, 4.5.3.1
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255
_ATOM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~.")


class UnusableAddress(Exception):
    """Mail cannot be sent to this address; the message says why without repeating it."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """`local` may hold UTF-8 (the server must then offer SMTPUTF8); `domain` is ASCII, an IDN in its `xn--` form."""

    local: str
    domain: str
    name: str = ""

    @property
    def addr_spec(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def header(self) -> Address:
        """For From, To and Reply-To."""
        return Address(display_name=self.name, username=self.local, domain=self.domain)

    @property
    def masked(self) -> str:
        """For logs: enough to recognise a case, not enough to write to: `j***@example.com`."""
        return f"{self.local[:1]}***@{self.domain}"


def read_address(text: str) -> Mailbox:
    """`local@domain`, as Stripe has it. Raises UnusableAddress."""
    text = text.strip(" ")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise UnusableAddress("the address has white space or control characters")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise UnusableAddress("the address is not of the form local@domain")
    return Mailbox(_local(local), _domain(domain))


def read_mailbox(text: str) -> Mailbox:
    """`Name <local@domain>` or `local@domain`, as the configuration has it. Raises UnusableAddress."""
    name, address = parseaddr(text)
    found = read_address(address)
    return Mailbox(found.local, found.domain, one_line(name))


def _local(local: str) -> str:
    if len(local.encode()) > _LONGEST_LOCAL:
        raise UnusableAddress("the part before the @ is too long")
    # Quoted local parts are legal and, in practice, only ever an attack.
    if any(c.isascii() and c not in _ATOM for c in local):
        raise UnusableAddress("the part before the @ has characters that no address has")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise UnusableAddress("the part before the @ has a dot too many")
    return local


def _domain(domain: str) -> str:
    try:
        encoded = idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise UnusableAddress("the part after the @ is not a domain name") from None
    if len(encoded) > _LONGEST_DOMAIN:
        raise UnusableAddress("the part after the @ is too long")
    return encoded.lower()
