"""The secrets that sign notifications, from the config, the environment and files."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from secrets import token_bytes

from schemas.feed_settings import Destination, weakness_of
from schemas.settings import InvalidSettings
from schemas.webhook_secrets import given_secrets

VARIABLE = "BILLING_FEED_SECRET"
"""Variable with the secrets of a destination, whose name follows in capitals: BILLING_FEED_SECRET_APP. It has one
secret, or two separated by a comma; `…_FILE` names a file with one in each line."""
_MOST = 2


def new_secret() -> str:
    """Returns a random secret."""
    return f"whsec_{b64encode(token_bytes(32)).decode()}"


def secret_variable(destination: str) -> str:
    """Returns the variable with secrets of this destination."""
    return f"{VARIABLE}_{re.sub(r'[^A-Z0-9]', '_', destination.upper())}"


def feed_secrets(name: str, destination: Destination, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns each secret once: those of the environment or the file first, then those of the config.

    Raises InvalidSettings, without a secret in its message, if there is none, a weak one, or more than two.
    """
    variable = secret_variable(name)
    found = given_secrets(variable, destination.secrets, environment)
    if not found:
        raise InvalidSettings(
            f"feed.destinations.{name} has no secret: set {variable}, or secrets; `billing feed secret` makes one"
        )
    if len(found) > _MOST:
        raise InvalidSettings(f"feed.destinations.{name} has {len(found)} secrets: two are enough for a rotation")
    for secret in found:
        if (reason := weakness_of(secret)) is not None:
            raise InvalidSettings(f"feed.destinations.{name}: {reason}")
    return found
