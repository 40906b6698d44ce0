"""Reads addresses that come from outside: Stripe's objects, headers, and settings."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def parts_of(url: str) -> SplitResult:
    """Returns the parts of an address, all empty if it is none: urlsplit raises ValueError for `https://[`."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")
