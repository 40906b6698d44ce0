"""The webhook endpoints: configurations that are refused, and addresses that may post."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from gateway.endpoints import webhook_endpoints
from schemas.settings import Config, Endpoint, InvalidSettings, Mode


def endpoint(*secrets: str, mode: Mode = Mode.TEST, allow_ips: tuple[str, ...] = ()) -> Endpoint:
    return Endpoint(mode=mode, secrets=tuple(SecretStr(s) for s in secrets or ("whsec_1",)), allow_ips=allow_ips)


def test_secrets_never_show() -> None:
    """The repr of an endpoint, as in a log or a traceback, contains no secret."""
    loaded = webhook_endpoints(Config(endpoints={"default": endpoint("whsec_hush")}))["default"]
    assert loaded.secrets == (b"whsec_hush",)
    assert "hush" not in repr(loaded)


@pytest.mark.parametrize(
    ("endpoints", "named"),
    [
        ({}, "endpoints"),
        ({"default": endpoint("")}, "endpoints.default.secrets"),
        ({"default": endpoint("whsec_1", "  ")}, "endpoints.default.secrets"),
        ({"a/b": endpoint()}, "endpoints.a/b"),
        ({"": endpoint()}, "endpoints."),
        ({"default": endpoint(allow_ips=("10.0.0.0/33",))}, "endpoints.default.allow_ips"),
        ({"t": endpoint("whsec_1"), "l": endpoint("whsec_1", mode=Mode.LIVE)}, "endpoints.l.secrets"),
    ],
)
def test_a_config_with_an_open_endpoint_is_refused(endpoints: dict[str, Endpoint], named: str) -> None:
    """The error is one line that names the place and contains no secret."""
    with pytest.raises(InvalidSettings, match="BILLING_CONFIG") as caught:
        webhook_endpoints(Config(endpoints=endpoints))
    assert named in str(caught.value)
    assert "whsec" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_endpoints_of_one_mode_may_share_a_secret() -> None:
    """This gives no additional access."""
    assert len(webhook_endpoints(Config(endpoints={"a": endpoint("whsec_1"), "b": endpoint("whsec_1")}))) == 2


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
