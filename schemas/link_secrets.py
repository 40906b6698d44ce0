"""The secrets that sign links in mails: one, or several while a secret is changed."""

from __future__ import annotations

from schemas.guessable import is_made_up

MIN_BYTES = 32
"""A link shows a signature, so a shorter secret could be guessed offline from one mail."""

_MIN_DIFFERENT = 8


def link_secrets(text: str) -> tuple[bytes, ...]:
    """Returns the secrets, which are separated by commas: the first signs, each of them verifies.

    Raises ValueError if one of them does not protect the links; the message does not contain it.
    """
    found = tuple(part.strip().encode() for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("it has no secret")
    for secret in found:
        if len(secret) < MIN_BYTES:
            raise ValueError(f"a secret has less than {MIN_BYTES} bytes, so it can be guessed: openssl rand -hex 32")
        text = secret.decode()
        if len(set(secret)) < _MIN_DIFFERENT or is_made_up(text):
            raise ValueError("a secret is a placeholder, words or a pattern: openssl rand -hex 32 makes one")
    return found
