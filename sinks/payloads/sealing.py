"""Encrypts the payload of one event under a key of its own, so that deleting the key erases it from every copy.

payload ─▶ zlib ─▶ AES-256-GCM ─▶ one line of JSON        the key goes to the event's ledger row
"""

from __future__ import annotations

import base64
import secrets
import zlib
from dataclasses import dataclass

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.errors import BillingError

CIPHER = "AES-256-GCM"
KEY_BYTES = 32
_NONCE_BYTES = 12


class Unreadable(BillingError):
    """The line does not contain what was sealed for this event, or the key is another one."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted payload as one line without its newline, and its key."""

    key: bytes
    line: bytes


def seal(event_id: str, payload: str) -> Sealed:
    """Encrypts the payload under a new key. The line can only be read as that of this event."""
    key, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
    hidden = AESGCM(key).encrypt(nonce, zlib.compress(payload.encode()), event_id.encode())
    line = {
        "event_id": event_id,
        "cipher": CIPHER,
        "nonce": base64.b64encode(nonce).decode(),
        "payload": base64.b64encode(hidden).decode(),
    }
    return Sealed(key, orjson.dumps(line))


def unseal(event_id: str, key: bytes, line: bytes) -> str:
    """Returns the payload. Raises Unreadable."""
    try:
        found = orjson.loads(line)
        nonce, hidden = (base64.b64decode(found[name], validate=True) for name in ("nonce", "payload"))
        return zlib.decompress(AESGCM(key).decrypt(nonce, hidden, event_id.encode())).decode()
    except (InvalidTag, KeyError, TypeError, ValueError, zlib.error):
        raise Unreadable(f"the archived payload of {event_id} is damaged, or belongs to another event") from None
