"""Verifies ID tokens of an OpenID provider: signature, issuer, audience, times and nonce. Imported if one is set.

Only signatures by a private key are accepted: with `none` or an HMAC, whoever knows the client could write a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwk, jwt
from joserfc.errors import InvalidKeyIdError, JoseError

from schemas.errors import BillingError

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
LEEWAY_S = 60
"""Seconds by which the provider's clock may differ."""

MOST_TOKEN_CHARACTERS = 64 * 1024
_MOST_KEYS = 100
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the library raises for a key or token whose parts are not of the kinds that it expects."""

_KEY_TYPES = frozenset({"RSA", "EC", "OKP"})


class InvalidToken(BillingError):
    """The ID token is not one of this provider for this sign-in. The message contains nothing of the token."""


class UnknownKey(InvalidToken):
    """The token was signed with a key that is not in the key set: the provider may have changed its keys."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to contain. `algorithms` are those of the provider's discovery document, empty: not given."""

    issuer: str
    client_id: str
    nonce: str
    algorithms: frozenset[str] = frozenset()


def key_set(published: Mapping[str, Any]) -> jwk.KeySet:
    """Returns the public keys for signatures of a published key set. Leaves out what it cannot read."""
    keys: list[jwk.Key] = []
    listed = published.get("keys")
    for one in listed[:_MOST_KEYS] if isinstance(listed, list) else []:
        if not isinstance(one, dict) or one.get("kty") not in _KEY_TYPES or one.get("use", "sig") != "sig":
            continue
        try:
            keys.append(jwk.import_key(one))
        except (JoseError, *_UNREADABLE):
            continue
    return jwk.KeySet(keys)


def verified(token: str, keys: jwk.KeySet, expected: Expected, now: int) -> dict[str, Any]:
    """Returns the claims of a token, in which everything expected holds. `now` is in seconds. Raises InvalidToken."""
    if len(token) > MOST_TOKEN_CHARACTERS:
        raise InvalidToken("the ID token is too long")
    allowed = sorted(ALGORITHMS & expected.algorithms if expected.algorithms else ALGORITHMS)
    try:
        claims = jwt.decode(token, keys, algorithms=allowed).claims
        _registry(expected, now).validate(claims)
    except InvalidKeyIdError:
        raise UnknownKey("the ID token was signed with an unknown key") from None
    except JoseError as error:
        raise InvalidToken(f"the ID token is not valid: {error.error or type(error).__name__}") from None
    except _UNREADABLE:
        raise InvalidToken("the ID token cannot be read") from None
    nonce = claims["nonce"]
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise InvalidToken("the ID token is not for this sign-in")
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and "azp" not in claims:
        raise InvalidToken("the ID token has several audiences and does not say for whom it was issued")
    if claims.get("azp", expected.client_id) != expected.client_id:
        raise InvalidToken("the ID token was issued for another client")
    return claims


def _registry(expected: Expected, now: int) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(
        now=now,
        leeway=LEEWAY_S,
        iss={"essential": True, "value": expected.issuer},
        aud={"essential": True, "value": expected.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True},
    )
