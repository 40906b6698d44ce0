"""Signs people in by an OpenID provider: authorization code with PKCE, state and nonce. Imported if one is configured.

    sign-in page ─▶ provider ─▶ /sign-in/oidc/callback?code&state ─▶ token endpoint ─▶ ID token ─▶ name and role

What belongs to one sign-in (state, nonce, verifier) is in a cookie of the browser that began it, so a callback works
there only, in any console process, and once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from joserfc import jwk
from pydantic import SecretStr

from console.id_tokens import Expected, InvalidToken, UnknownKey, key_set, verified
from console.identity import BY_OIDC, Person, role_of
from console.oidc_errors import ProviderUnavailable, SignInRefused, TooManySignIns
from console.params import MOST_CHARACTERS
from console.tries import LinesOfPeers, Shares
from schemas.console_settings import ConsoleOidc, is_https_or_loopback

CALLBACK = "/sign-in/oidc/callback"
LASTS_S = 600
"""Seconds for which a sign-in may take at the provider."""

_KEPT_S, _KEYS_AGAIN_S = 3600.0, 30.0
"""Seconds for which the provider's document and keys are kept, and after which an unknown key is looked for again."""

_TIMEOUT_S, _WHOLE_S = 10.0, 20.0
"""Seconds for one answer of the provider, and for all that a sign-in needs."""

_MOST_BYTES = 512 * 1024
_MOST_CODE_CHARACTERS = 4096
_MOST_NEXT_CHARACTERS = 1500
_AT_ONCE, _AT_ONCE_OF_A_PEER = 8, 3


@dataclass(frozen=True, slots=True)
class SignInAttempt:
    """One sign-in that a browser has begun."""

    state: str
    nonce: str
    verifier: str
    next: str

    @classmethod
    def begin(cls, to: str) -> SignInAttempt:
        """Returns a new one that leads to the page `to`, or to the overview if its path is very long."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, to if len(to) <= _MOST_NEXT_CHARACTERS else "/")

    def as_cookie(self) -> str:
        text = "~".join((self.state, self.nonce, self.verifier, self.next))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def of_cookie(cls, value: str) -> SignInAttempt | None:
        """Returns the sign-in of a cookie, None if it is not one that this console has set."""
        try:
            text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        except ValueError:
            return None
        parts = text.split("~", 3)
        return cls(*parts) if len(parts) == 4 and all(parts) else None


@dataclass(frozen=True, slots=True)
class Document:
    """What the provider's discovery document says."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: frozenset[str]
    takes_basic: bool
    names_itself: bool
    """Whether each callback has the issuer in `iss` (RFC 9207)."""


class OidcSignIn:
    """Knows one provider. `base` is the URL at which browsers reach the console; `clock` returns epoch seconds."""

    def __init__(
        self, config: ConsoleOidc, secret: SecretStr | None, base: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._secret = secret
        self._redirect_uri = f"{base}{CALLBACK}"
        self._clock = clock
        self._document: Document | None = None
        self._document_until = 0.0
        self._keys: jwk.KeySet | None = None
        self._keys_at = 0.0
        self._turn = asyncio.Lock()
        self._busy = 0
        self._shares = Shares(_AT_ONCE_OF_A_PEER)
        self._lines = LinesOfPeers()

    def may_log(self, peer: str) -> bool:
        """Returns whether one more log line may be written for this address."""
        return self._lines.may_write(peer)

    @property
    def name(self) -> str:
        return self._config.name

    async def url_for(self, attempt: SignInAttempt, *, peer: str) -> str:
        """Returns the provider's page at which a sign-in goes on. `peer` is the browser's address.

        Raises ProviderUnavailable, TooManySignIns, and TooManyTries if this peer has its part of the places.
        """
        async with self._place(peer):
            document = await self._discovered()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._config.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if "?" in document.authorization_endpoint else "?"
        return f"{document.authorization_endpoint}{separator}{urlencode(asked)}"

    async def person(self, attempt: SignInAttempt | None, query: Mapping[str, str], *, peer: str) -> Person:
        """Returns whom a callback signs in. Raises SignInRefused, and what `url_for` raises."""
        if attempt is None or not hmac.compare_digest(attempt.state.encode(), query.get("state", "").encode()):
            raise SignInRefused("This sign-in was begun in another browser, or too long ago. Begin again.")
        async with self._place(peer):
            document = await self._discovered()
            named = query.get("iss")
            if named != self._config.issuer and (named is not None or document.names_itself):
                raise SignInRefused("The answer is of another provider.")
            if query.get("error"):
                raise SignInRefused(f"The provider did not sign you in: {_plain(query['error'])}.")
            code = query.get("code", "")
            if not code or len(code) > _MOST_CODE_CHARACTERS:
                raise SignInRefused("The provider's answer has no code.")
            token = await self._redeemed(document, code, attempt.verifier)
            try:
                claims = await self._claims(document, token, attempt.nonce)
            except InvalidToken as error:
                raise SignInRefused(f"The provider's answer is not valid: {error}.") from None
        return person_of(self._config, claims)

    @asynccontextmanager
    async def _place(self, peer: str) -> AsyncIterator[None]:
        """One of the few sign-ins that may ask the provider at once, for a limited time. A peer has a part of them."""
        if self._busy >= _AT_ONCE:
            raise TooManySignIns
        with self._shares.reserved(peer):
            self._busy += 1
            try:
                async with asyncio.timeout(_WHOLE_S):
                    yield
            except TimeoutError:
                raise ProviderUnavailable(f"the provider does not answer within {_WHOLE_S:.0f} s") from None
            finally:
                self._busy -= 1

    async def _claims(self, document: Document, token: str, nonce: str) -> dict[str, Any]:
        expected = Expected(self._config.issuer, self._config.client_id, nonce, document.algorithms)
        keys = await self._key_set(document)
        try:
            return verified(token, keys, expected, int(self._clock()))
        except UnknownKey:
            newer = await self._key_set(document, instead_of=keys)
            return verified(token, newer, expected, int(self._clock()))

    async def _discovered(self) -> Document:
        async with self._turn:
            if self._document is None or self._document_until <= time.monotonic():
                url = self._config.issuer.rstrip("/") + "/.well-known/openid-configuration"
                self._document = read_document(self._config.issuer, await _fetched("GET", url))
                self._document_until = time.monotonic() + _KEPT_S
            return self._document

    async def _key_set(self, document: Document, *, instead_of: jwk.KeySet | None = None) -> jwk.KeySet:
        async with self._turn:
            age = time.monotonic() - self._keys_at
            is_asked_again = instead_of is not None and instead_of is self._keys and age > _KEYS_AGAIN_S
            if self._keys is None or age > _KEPT_S or is_asked_again:
                self._keys = key_set(await _fetched("GET", document.jwks_uri))
                self._keys_at = time.monotonic()
            return self._keys

    async def _redeemed(self, document: Document, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        secret = self._secret.get_secret_value() if self._secret is not None else ""
        if secret and document.takes_basic:
            pair = f"{quote(self._config.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self._config.client_id
            if secret:
                form["client_secret"] = secret
        answer = await _fetched("POST", document.token_endpoint, form=form, headers=headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignInRefused("The provider's answer has no ID token.")
        return token


def read_document(issuer: str, found: Mapping[str, Any]) -> Document:
    """Returns a discovery document as far as it is needed. Raises ProviderUnavailable if it cannot be used."""
    if found.get("issuer") != issuer:
        raise ProviderUnavailable("the discovery document is of another issuer than console.oidc.issuer")

    def endpoint(name: str) -> str:
        url = found.get(name)
        if not isinstance(url, str) or not is_https_or_loopback(url):
            raise ProviderUnavailable(f"the discovery document has no https URL as {name}")
        return url

    methods = _texts(found.get("token_endpoint_auth_methods_supported"))
    return Document(
        endpoint("authorization_endpoint"),
        endpoint("token_endpoint"),
        endpoint("jwks_uri"),
        algorithms=frozenset(_texts(found.get("id_token_signing_alg_values_supported"))),
        takes_basic=not methods or "client_secret_basic" in methods,  # the default of OpenID Connect Discovery
        names_itself=found.get("authorization_response_iss_parameter_supported") is True,
    )


def person_of(config: ConsoleOidc, claims: Mapping[str, Any]) -> Person:
    """Returns who is signed in by verified claims, with the highest of their roles. Raises SignInRefused."""
    who = claims.get(config.name_claim)
    if not isinstance(who, str) or not who or len(who) > MOST_CHARACTERS - len(BY_OIDC) or not who.isprintable():
        raise SignInRefused(f"The ID token does not say who you are: it has no claim {config.name_claim}.")
    if config.name_claim == "email" and claims.get("email_verified") is not True:
        raise SignInRefused("The provider has not verified your e-mail address.")
    role = role_of(config.users, config.groups, who, _texts(claims.get(config.groups_claim)))
    if role is None:
        raise SignInRefused(f"{who} has no role in this console.", who=f"{who}{BY_OIDC}")
    return Person(f"{who}{BY_OIDC}", role)


async def _fetched(
    method: str, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the JSON of an answer. Follows no redirect. Raises ProviderUnavailable, SignInRefused for 4xx."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                method, url, data=form, headers={"Accept": "application/json", **(headers or {})}, allow_redirects=False
            ) as answer,
        ):
            body = b""
            async for chunk in answer.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ProviderUnavailable("the provider's answer is too long")
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ProviderUnavailable(f"the provider does not answer: {type(error).__name__}") from None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if method == "POST" and 400 <= status < 500:
        reason = _plain(found.get("error")) if isinstance(found, dict) else str(status)
        raise SignInRefused(f"The provider did not take the code: {reason}.")
    if status != 200 or not isinstance(found, dict):
        raise ProviderUnavailable(f"the provider answers {status}" + ("" if status != 200 else " without JSON"))
    return found


def _texts(given: object) -> list[str]:
    """Returns the texts of a JSON array, or the one text."""
    if isinstance(given, str):
        return [given]
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []


def _plain(given: object) -> str:
    """Returns an error code of the provider as it may be shown: RFC 6749 allows ASCII only."""
    text = str(given)[:60]
    return text if text.isascii() and text.isprintable() else "an unreadable error"
