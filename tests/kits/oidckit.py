"""An OpenID provider that serves over HTTP on loopback: discovery, sign-in page, token endpoint, rotating keys."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jwk, jwt

CLIENT, SECRET = "billing console", "s3cr:et%"
Claims = dict[str, Any]


@dataclass
class Provider:
    """One provider. Tests change what it says."""

    issuer: str = ""
    keys: list[jwk.RSAKey] = field(default_factory=lambda: [new_key("k1")])
    """Published keys. The last one signs."""
    person: Claims = field(default_factory=lambda: {"email": "ada@example.com", "email_verified": True})
    document: Claims = field(default_factory=dict)
    """Further members of the discovery document."""
    answer: Claims = field(default_factory=dict)
    """Further members of the callback."""
    change: Callable[[Claims], Claims] = dict
    """Changes the claims before they are signed."""
    write: Callable[[Claims], str] | None = None
    """Writes the token itself, instead of signing it."""
    status: int = 200
    """What the token endpoint answers."""
    codes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    discoveries: int = 0
    key_reads: int = 0

    async def discovery(self, _: web.Request) -> web.Response:
        self.discoveries += 1
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize?tenant=t",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                **self.document,
            }
        )

    async def authorize(self, request: web.Request) -> web.Response:
        """The person has signed in here before, so the browser is sent back at once."""
        asked = dict(request.query)
        assert asked["tenant"] == "t"
        assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], **self.answer}
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(answer)}"})

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        is_client = scheme == "Basic" and (unquote(name), unquote(secret)) == (CLIENT, SECRET)
        asked = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if self.status != 200:
            return web.json_response({"error": "server_error"}, status=self.status)
        if not is_client:
            return web.json_response({"error": "invalid_client"}, status=401)
        if (
            asked is None
            or asked["code_challenge"] != challenge.rstrip("=")
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = self.change(
            {
                "iss": self.issuer, "aud": CLIENT, "sub": "u-1", "iat": now, "exp": now + 300,
                "nonce": asked["nonce"], **self.person,
            }
        )  # fmt: skip
        token = self.write(claims) if self.write is not None else signed(claims, self.keys[-1])
        return web.json_response({"access_token": "a", "token_type": "Bearer", "id_token": token})

    async def published(self, _: web.Request) -> web.Response:
        self.key_reads += 1
        unreadable = {"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq"}
        return web.json_response({"keys": [unreadable, *(key.as_dict(private=False) for key in self.keys)]})


def new_key(kid: str) -> jwk.RSAKey:
    """A new key."""
    return jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


def signed(claims: Claims, key: jwk.Key, algorithm: str = "RS256") -> str:
    """A token with these claims."""
    return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm])


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """A provider that serves until the block ends."""
    made = Provider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/authorize", made.authorize)
    app.router.add_post("/token", made.token)
    app.router.add_get("/keys", made.published)
    server = TestServer(app)
    async with server:
        made.issuer = f"http://127.0.0.1:{server.port}"
        yield made
