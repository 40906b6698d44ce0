"""Only a token that the provider has signed for this client and this sign-in is accepted."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwk

from console.id_tokens import LEEWAY_S, Expected, InvalidToken, UnknownKey, key_set, verified
from console.oidc import SignInAttempt, person_of, read_document
from console.oidc_errors import ProviderUnavailable, SignInRefused
from schemas.console_settings import ConsoleOidc, Role
from tests.kits.oidckit import new_key, signed

NOW = 1_800_000_000
KEY = new_key("k1")
OTHER = new_key("k1")
EXPECTED = Expected("https://login.example.com", "console", "n-1")
PUBLISHED = key_set({"keys": [KEY.as_dict(private=False)]})
CLAIMS = {
    "iss": "https://login.example.com", "aud": "console", "sub": "u-1", "nonce": "n-1",
    "iat": NOW - 10, "exp": NOW + 300,
}  # fmt: skip
CONFIG = ConsoleOidc(issuer="https://login.example.com", client_id="console", users={"ada@example.com": Role.SUPPORT})


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def by_public_key(claims: dict[str, Any]) -> str:
    """An HMAC whose secret is the published key: the confusion of algorithms."""
    content = f"{part({'alg': 'HS256', 'kid': 'k1'})}.{part(claims)}"
    mac = hmac.digest(KEY.as_pem(private=False), content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_a_good_token_is_accepted() -> None:
    assert verified(signed(CLAIMS, KEY), PUBLISHED, EXPECTED, NOW)["sub"] == "u-1"
    several = CLAIMS | {"aud": ["console", "api"], "azp": "console"}
    assert verified(signed(several, KEY), PUBLISHED, EXPECTED, NOW)["azp"] == "console"


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://login.example.com/"},
        {"iss": ["https://login.example.com"]},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": ["console", "another"]},
        {"aud": "console", "azp": "another"},
        {"aud": None},
        {"exp": NOW - LEEWAY_S},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": NOW + LEEWAY_S + 1},
        {"iat": None},
        {"nbf": NOW + LEEWAY_S + 1},
        {"nonce": "n-2"},
        {"nonce": ["n-1"]},
        {"nonce": None},
        {"nonce": ""},
        {"sub": None},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(changed: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not None}
    with pytest.raises(InvalidToken) as caught:
        verified(signed(claims, KEY), PUBLISHED, EXPECTED, NOW)
    assert "u-1" not in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda claims: f"{part({'alg': 'none'})}.{part(claims)}.",
        lambda claims: f"{part({'alg': 'none', 'kid': 'k1'})}.{part(claims)}.x",
        by_public_key,
        lambda claims: signed(claims, OTHER),
        lambda claims: signed(claims, KEY)[:-6] + "AAAAAA",
        lambda _: "not.a.token",
        lambda _: "",
        lambda _: "a." * 4,
        lambda _: f"{base64.urlsafe_b64encode(b'[' * 20_000).decode().rstrip('=')}.e30.x",
        lambda claims: signed(claims, KEY).replace(part({"typ": "JWT"})[:8], part(["RS256"])[:8]),
        lambda claims: f"{part({'alg': 'ES256', 'kid': 'k1'})}.{part(claims)}.x",
        lambda claims: f"{part({'alg': 7, 'kid': 'k1'})}.{part(claims)}.x",
        lambda claims: f"{part({'alg': 'RS256', 'kid': ['k1']})}.{part(claims)}.x",
        lambda claims: f"{part({'alg': 'RS256', 'kid': 'k1', 'crit': ['b64'], 'b64': False})}.{part(claims)}.x",
    ],
)
def test_a_token_that_the_provider_has_not_signed_is_refused(write: Callable[[dict[str, Any]], str]) -> None:
    with pytest.raises(InvalidToken):
        verified(write(dict(CLAIMS)), PUBLISHED, EXPECTED, NOW)


def test_an_algorithm_that_the_provider_does_not_use_is_refused() -> None:
    only = Expected(EXPECTED.issuer, EXPECTED.client_id, EXPECTED.nonce, frozenset({"ES256", "none"}))
    with pytest.raises(InvalidToken):
        verified(signed(CLAIMS, KEY), PUBLISHED, only, NOW)


def test_a_new_key_is_no_wrong_signature() -> None:
    with pytest.raises(UnknownKey):
        verified(signed(CLAIMS, new_key("k2")), PUBLISHED, EXPECTED, NOW)


def test_unreadable_and_symmetric_keys_are_left_out() -> None:
    shared = jwk.OctKey.generate_key(256, {"kid": "shared"}).as_dict()
    listed = [shared, {"kty": "RSA"}, {"kty": "EC", "crv": "P-999", "x": "", "y": ""}, None, KEY.as_dict(private=False)]
    assert [key.kid for key in key_set({"keys": listed}).keys] == ["k1"]
    assert key_set({"keys": "none"}).keys == []


def test_a_name_counts_only_if_the_provider_has_verified_it() -> None:
    ada = {"email": "ada@example.com", "email_verified": True}
    assert person_of(CONFIG, ada).role == Role.SUPPORT
    assert person_of(CONFIG, ada).who == "ada@example.com (OpenID)"
    for changed in (
        {"email_verified": False}, {"email_verified": "true"}, {"email": "ADA@example.com"},
        {"email": "ada@example.com.eu"}, {"email": ["ada@example.com"]}, {"email": ""}, {"email": "x" * 400},
        {"email": "ada@example.com\n"},
    ):  # fmt: skip
        with pytest.raises(SignInRefused):
            person_of(CONFIG, ada | changed)


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["ops"], Role.OPERATOR), (["ops", "all"], Role.OPERATOR), ("all", Role.VIEWER), (["myops", "OPS", 7], None)],
)
def test_the_highest_role_of_the_groups_counts(groups: object, role: Role | None) -> None:
    config = ConsoleOidc(
        issuer="https://login.example.com", client_id="c", name_claim="sub", groups_claim="roles",
        groups={"ops": Role.OPERATOR, "all": Role.VIEWER},
    )  # fmt: skip
    claims = {"sub": "u-1", "roles": groups}
    if role is None:
        with pytest.raises(SignInRefused):
            person_of(config, claims)
    else:
        assert person_of(config, claims).role == role


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://login.example.com/"},
        {"token_endpoint": "http://login.example.com/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
)
def test_a_provider_without_tls_or_with_another_name_is_not_used(changed: dict[str, Any]) -> None:
    issuer = "https://login.example.com"
    found = {
        "issuer": issuer,
        **{name: f"{issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")},
    }
    assert read_document(issuer, found).takes_basic
    with pytest.raises(ProviderUnavailable):
        read_document(issuer, found | changed)


def test_a_sign_in_is_read_from_its_cookie_only() -> None:
    begun = SignInAttempt.begin("/events?type=invoice.*")
    assert SignInAttempt.of_cookie(begun.as_cookie()) == begun
    assert SignInAttempt.begin("/" + "x" * 2000).next == "/"
    for broken in (
        "",
        "x",
        part([1, 2, 3, 4]),
        part(["a", "", "c", "/"]),
        part({}),
        part(["a", "b", "c"]),
        "\N{SNOWMAN}",
    ):
        assert SignInAttempt.of_cookie(broken) is None


@pytest.mark.parametrize(
    "given",
    [
        {"issuer": "http://login.example.com"},
        {"issuer": "https://login.example.com?x=1"},
        {"issuer": "login.example.com"},
        {"users": {}},
        {"scopes": ["email"]},
        {"client_id": ""},
    ],
)
def test_a_config_that_no_one_can_use_is_refused(given: dict[str, Any]) -> None:
    right = {"issuer": "https://login.example.com", "client_id": "c", "users": {"ada@example.com": "admin"}}
    assert ConsoleOidc.model_validate(right).users["ada@example.com"] == Role.ADMIN
    with pytest.raises(ValueError, match="ConsoleOidc"):
        ConsoleOidc.model_validate(right | given)
