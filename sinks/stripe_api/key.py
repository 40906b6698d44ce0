"""The key that opens Stripe's API, and the address it may be sent to. It never shows itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from schemas.settings import InvalidSettings, Mode

_KEY = re.compile(r"(?:sk|rk)_(?:org_)?(live|test)_[A-Za-z0-9_]+")
_ANY_KEY = re.compile(r"\b(?:sk|rk)_(?:org_)?(?:live|test)_[A-Za-z0-9_*.]+")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A secret or restricted key and the mode it belongs to."""

    secret: SecretStr
    mode: Mode


def parse_key(secret: SecretStr) -> ApiKey:
    """Raises InvalidSettings, which does not show the key."""
    found = _KEY.fullmatch(secret.get_secret_value())
    if found is None:
        raise InvalidSettings("BILLING_STRIPE_API_KEY: expected sk_test_…, sk_live_…, rk_test_… or rk_live_…")
    return ApiKey(secret, Mode(found[1]))


def parse_base(base: str) -> str:
    """The address without a slash at its end. Raises InvalidSettings where the key would travel unencrypted."""
    try:
        parts = urlsplit(base)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        usable = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not parts.query
    except ValueError:
        is_safe = usable = False
    if not (is_safe and usable) or parts.username is not None:
        raise InvalidSettings("BILLING_STRIPE_API_BASE: expected https://host, or http:// to this machine itself")
    return base.rstrip("/")


def without_keys(text: str) -> str:
    """The text with every API key in it, also one that Stripe has masked, left out."""
    return _ANY_KEY.sub("[key]", text)
