"""Reads addresses that come from outside: Stripe's objects, headers, and settings."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

_PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?", re.ASCII)


def parts_of(url: str) -> SplitResult:
    """Returns the parts of an address, all empty if it is none: urlsplit raises ValueError for `https://[`."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def is_page_of_stripe(url: str, hosts: Collection[str] = ()) -> bool:
    """Returns whether the address is https, and of Stripe or of one of the hosts, for every program that opens it.

    Browsers end a host at a backslash and drop line ends, which urlsplit does not, so such an address is refused.
    """
    parts = parts_of(url)
    if parts.scheme != "https" or "\\" in url or not url.isprintable() or not _PLAIN_HOST.fullmatch(parts.netloc):
        return False
    host = parts.hostname or ""
    return host == "stripe.com" or host.endswith(".stripe.com") or host in hosts
