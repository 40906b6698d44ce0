"""Parses Stripe's API key and base address, and removes API keys from texts. Errors never show the key."""

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
    """A secret or restricted key and its mode."""

    secret: SecretStr
    mode: Mode


def parse_key(secret: SecretStr, *, mode: Mode | None = None, name: str = "BILLING_STRIPE_API_KEY") -> ApiKey:
    """Parse the API key in the setting `name`. Raises InvalidSettings, without showing the key, also if it is not of
    `mode`."""
    found = _KEY.fullmatch(secret.get_secret_value())
    if found is None:
        raise InvalidSettings(f"{name}: expected sk_test_…, sk_live_…, rk_test_… or rk_live_…")
    key = ApiKey(secret, Mode(found[1]))
    if mode is not None and key.mode is not mode:
        raise InvalidSettings(f"{name} is a key of {key.mode} mode, and `mode` in BILLING_CONFIG is {mode}")
    return key


def parse_base(base: str) -> str:
    """Return the address without a trailing slash. Raises InvalidSettings if the key would be sent unencrypted."""
    try:
        parts = urlsplit(base)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        usable = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/") and not parts.query
    except ValueError:
        is_safe = usable = False
    if not (is_safe and usable) or parts.username is not None:
        raise InvalidSettings("BILLING_STRIPE_API_BASE: expected https://host, or http:// to this machine")
    return base.rstrip("/")


def without_keys(text: str) -> str:
    """Return `text` with every API key replaced by `[key]`, including keys that Stripe has masked."""
    return _ANY_KEY.sub("[key]", text)
