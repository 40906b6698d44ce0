"""Passwords of the console's users: scrypt hashes, checked in constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_N, _R, _P = 2**15, 8, 1
_MEMORY = 2**26
"""Bytes that OpenSSL may use. n=2^15 and r=8 need 32 MiB."""

_SALT_BYTES = 16
MOST_CHARACTERS = 1024


def hash_of(password: str) -> str:
    """Returns the hash for `[console.users.NAME] password`. Takes about 0.1 s."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(_derived(password, salt, _N, _R, _P))))


def matches(password: str, hashed: str) -> bool:
    """Returns whether the password has this hash. Takes about 0.1 s, so call it in a thread."""
    try:
        _, n, r, p, salt, wanted = hashed.split("$")
        found = _derived(password, base64.b64decode(salt), int(n), int(r), int(p))
    except ValueError:  # a hash that was cut or edited matches nothing
        return False
    return hmac.compare_digest(found, base64.b64decode(wanted))


def _derived(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
