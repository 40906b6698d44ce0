"""The webhook endpoints: configurations that are refused, and addresses that may post."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from gateway.clients import group_of
from gateway.endpoints import webhook_endpoints
from schemas.settings import Config, Endpoint, InvalidSettings

FIRST = "whsec_4eC39HqLyjWDarjtT1zdp7dcTYooMQau"

WEAK = (
    "a",
    "whsec_",
    "x y",
    "sk_live_abc",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dcTYooMQau",
    "whsec_replace_me",
    "whsec_replace_me_with_your_own_secret",
    "whsec_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "whsec_your_endpoint_secret_from_stripe",
    "whsec_4eC39HqLyjWDarjtT1zdp7d",
    "whsec_4eC39HqLyjWDarjtT1zdp7dcTYooMQau ",
    "whsec_4eC39HqLyjWDar\njtT1zdp7dcTYooMQau",
    "whsec_abcdefghijklmnopqrstuvwxyz0123456789",
    "whsec_0123456789abcdef0123456789abcdef",
    "whsec_qwertyuiopasdfghjklzxcvbnm123456",
    "whsec_aB3xY9aB3xY9aB3xY9aB3xY9aB3xY9aB3-prod",
    "whsec_hier_das_geheimnis_eintragen",
    "whsec_mettez_votre_secret_ici_1234",
    "whsec_REMPLACEZ_CETTE_VALEUR_SVP_1",
)


def endpoint(*secrets: str, allow_ips: tuple[str, ...] = ()) -> Endpoint:
    return Endpoint(secrets=tuple(SecretStr(s) for s in secrets or (FIRST,)), allow_ips=allow_ips)


def test_secrets_never_show() -> None:
    """The repr of an endpoint, as in a log or a traceback, contains no secret."""
    loaded = webhook_endpoints(Config(endpoints={"default": endpoint(FIRST)}))["default"]
    assert loaded.secrets == (FIRST.encode(),)
    assert FIRST not in repr(loaded)


@pytest.mark.parametrize(
    ("endpoints", "named"),
    [
        ({}, "endpoints"),
        ({"default": endpoint("")}, "endpoints.default.secrets"),
        ({"default": endpoint(FIRST, "  ")}, "endpoints.default.secrets"),
        ({"a/b": endpoint()}, "endpoints.a/b"),
        ({"": endpoint()}, "endpoints."),
        ({"default": endpoint(allow_ips=("10.0.0.0/33",))}, "endpoints.default.allow_ips"),
        ({"default": Endpoint()}, "endpoints.default"),
        *(({"default": endpoint(FIRST, weak)}, "endpoints.default.secrets") for weak in WEAK),
    ],
)
def test_a_config_with_an_open_endpoint_is_refused(endpoints: dict[str, Endpoint], named: str) -> None:
    """The error is one line that names the place and contains no secret."""
    with pytest.raises(InvalidSettings, match="BILLING_CONFIG") as caught:
        webhook_endpoints(Config(endpoints=endpoints))
    assert named in str(caught.value)
    assert not any(weak in str(caught.value) for weak in (*WEAK[4:], FIRST))
    assert "\n" not in str(caught.value)


def test_two_endpoints_may_share_a_secret() -> None:
    """This gives no additional access."""
    assert len(webhook_endpoints(Config(endpoints={"a": endpoint(FIRST), "b": endpoint(FIRST)}))) == 2


@pytest.mark.parametrize(
    ("networks", "peer", "admitted"),
    [
        ((), "203.0.113.9", True),
        ((), None, True),
        (("203.0.113.0/24",), "203.0.113.9", True),
        (("203.0.113.0/24",), "203.0.114.9", False),
        (("203.0.113.9",), "203.0.113.9", True),
        (("203.0.113.0/24",), "::ffff:203.0.113.9", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "203.0.113.9", False),
        (("203.0.113.0/24",), None, False),
        (("203.0.113.0/24",), "nonsense", False),
    ],
)
def test_who_may_post(networks: tuple[str, ...], peer: str | None, admitted: bool) -> None:
    """The peer's address decides, in any form that the socket reports."""
    loaded = webhook_endpoints(Config(endpoints={"default": endpoint(allow_ips=networks)}))["default"]
    assert loaded.admits(peer) is admitted


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("garbage", "garbage"),
        (None, ""),
    ],
)
def test_an_ipv6_network_is_one_client(address: str | None, group: str) -> None:
    """Each of its 2**64 addresses would else have limits of its own."""
    assert group_of(address) == group
