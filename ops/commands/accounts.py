"""Checks the option `--account`, before the id is sent to Stripe or becomes part of a query."""

from __future__ import annotations

import re

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]+")


def is_account(text: str) -> bool:
    """Return whether the text is the id of an account at Stripe."""
    return _ACCOUNT.fullmatch(text) is not None
