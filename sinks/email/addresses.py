"""Checks and normalizes mail addresses before the SMTP session.

Stripe stores a customer's e-mail as the customer typed it. The address becomes part of a header and of an SMTP command
line, so every character that could end either of them is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.headerregistry import Address
from email.utils import getaddresses
from functools import lru_cache

import idna

from schemas.errors import BillingError
from schemas.mail import one_line

# RFC 5321, 4.5.3.1: longest local part in bytes, longest domain in characters.
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255
_ATOM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~.")


class UnusableAddress(BillingError):
    """Mail cannot be sent to this address. The message gives the reason and never contains the address."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A valid mail address with an optional display name.

    `local` may contain UTF-8; the server must then offer SMTPUTF8. `domain` is ASCII, an IDN in its `xn--` form.
    """

    local: str
    domain: str
    name: str = ""

    @property
    def addr_spec(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def header(self) -> Address:
        """The value for the headers From, To and Reply-To."""
        return Address(display_name=self.name, username=self.local, domain=self.domain)

    @property
    def shown(self) -> str:
        """The text of the header, before it is encoded where it is not ASCII."""
        return str(self.header) if self.name or not self.local.isascii() else self.addr_spec

    @property
    def masked(self) -> str:
        """The address shortened for logs: `j***@example.com`."""
        return f"{self.local[:1]}***@{self.domain}"


def read_address(text: str) -> Mailbox:
    """Parse `local@domain`, the form that Stripe stores. Raises UnusableAddress."""
    text = text.strip(" ")
    if " " in text or not text.isprintable():  # other white space is not printable
        raise UnusableAddress("the address has white space or control characters")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise UnusableAddress("the address is not of the form local@domain")
    return Mailbox(_local(local), _domain(domain))


def read_mailbox(text: str) -> Mailbox:
    """Parse `Name <local@domain>` or `local@domain`, the forms used in settings. Raises UnusableAddress.

    A second address is refused: the first alone would get the mails of both.
    """
    if not text.isprintable():
        raise UnusableAddress("the address has white space or control characters")
    found_in_text = getaddresses([text])
    if len(found_in_text) != 1:
        raise UnusableAddress("it must be one address; a name with a comma needs quotes")
    ((name, address),) = found_in_text
    found = read_address(address)
    return Mailbox(found.local, found.domain, one_line(name))


def _local(local: str) -> str:
    if len(local.encode()) > _LONGEST_LOCAL:
        raise UnusableAddress("the part before the @ is too long")
    # Quoted local parts are legal, but in practice they are only used in attacks.
    if not _ATOM.issuperset(local if local.isascii() else [c for c in local if c.isascii()]):
        raise UnusableAddress("the part before the @ contains invalid characters")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise UnusableAddress("the part before the @ has a misplaced dot")
    return local


# Most customers have addresses at a few domains, and IDNA takes a tenth of composing a mail.
@lru_cache(maxsize=4096)
def _domain(domain: str) -> str:
    try:
        encoded = idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise UnusableAddress("the part after the @ is not a domain name") from None
    if len(encoded) > _LONGEST_DOMAIN:
        raise UnusableAddress("the part after the @ is too long")
    return encoded.lower()
