"""The signing secrets of a webhook endpoint, from the config, the environment and files, and what makes one weak."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import SecretStr

from schemas.environment import FILE_SUFFIX, MAX_SECRET_BYTES
from schemas.guessable import has_words, is_made_up, is_placeholder
from schemas.settings import Endpoint, InvalidSettings

VARIABLE = "BILLING_WEBHOOK_SECRET"
"""The variable of the endpoint `default`. Another endpoint's name follows in capitals: BILLING_WEBHOOK_SECRET_CONNECT.
It has one secret, or several separated by commas; `…_FILE` names a file with one in each line."""

MIN_CHARS = 32
"""Stripe's secrets and those of the Stripe CLI have 38 characters or more."""

_PREFIX = "whsec_"
_SHAPE = re.compile(r"whsec_[A-Za-z0-9+/=_-]+", re.ASCII)
_MIN_DIFFERENT = 8
"""Different characters after the prefix. A random secret of 26 hexadecimal digits has fewer once in 200,000."""


def secret_variable(endpoint: str) -> str:
    """Returns the variable with secrets of this endpoint."""
    return VARIABLE if endpoint == "default" else f"{VARIABLE}_{re.sub(r'[^A-Z0-9]', '_', endpoint.upper())}"


def webhook_secrets(name: str, endpoint: Endpoint, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns each secret once: those of the environment or the file first, then those of the config.

    Raises InvalidSettings, without a secret in its message, if the file can't be read.
    """
    return given_secrets(secret_variable(name), endpoint.secrets, environment)


def given_secrets(variable: str, configured: Iterable[SecretStr], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the secrets of a variable (separated by commas), its file (one in each line) and the config, each once.

    Raises InvalidSettings if the file can't be read.
    """
    given = [part.strip() for part in environment.get(variable, "").split(",") if part.strip()]
    if path := environment.get(variable + FILE_SUFFIX):
        given += lines_of(variable + FILE_SUFFIX, Path(path))
    return tuple(dict.fromkeys([*given, *(secret.get_secret_value() for secret in configured)]))


def secret_files(names: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Returns the files that have secrets of these endpoints."""
    found = (environment.get(secret_variable(name) + FILE_SUFFIX) for name in names)
    return [Path(path) for path in found if path]


def weakness_of(secret: str) -> str | None:
    """Returns why this secret does not protect the endpoint, or None. The reason does not contain the secret."""
    if not secret.strip():
        return "a secret is empty, so anyone could sign events"
    if not secret.startswith(_PREFIX):
        return "a secret does not begin with whsec_: copy the signing secret of the endpoint from Stripe's dashboard"
    if is_placeholder(secret):
        return "a secret is a placeholder: copy the signing secret of the endpoint from Stripe's dashboard"
    if len(secret) < MIN_CHARS:
        return f"a secret has less than {MIN_CHARS} characters, so it can be guessed"
    if not _SHAPE.fullmatch(secret):
        return "a secret has a character that no secret of Stripe has, for example a blank or a line end"
    random = secret.removeprefix(_PREFIX)
    if len(set(random)) < _MIN_DIFFERENT:
        return "a secret is a placeholder: it consists of few different characters"
    if is_made_up(random) or has_words(random):
        return "a secret is a placeholder: it consists of words or of a pattern"
    return None


def lines_of(variable: str, path: Path) -> list[str]:
    """Returns the lines of a file with secrets, without blank ones. Raises InvalidSettings, which names `variable`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        lines = [line.strip() for line in content.decode().splitlines()]
    except OSError as error:
        raise InvalidSettings(f"{variable}: {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidSettings(f"{variable}: {path} is not UTF-8 text") from None
    if len(content) > MAX_SECRET_BYTES:
        raise InvalidSettings(f"{variable}: {path} has more than {MAX_SECRET_BYTES} bytes")
    found = [line for line in lines if line]
    if not found:
        raise InvalidSettings(f"{variable}: {path} is empty")
    return found
