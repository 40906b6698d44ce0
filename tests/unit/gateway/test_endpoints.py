"""The webhook endpoints: what a config may not say, and who may knock."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from gateway.endpoints import webhook_endpoints
from schemas.settings import Config, Endpoint, InvalidSettings, Mode


def endpoint(*secrets: str, mode: Mode = Mode.TEST, allow_ips: tuple[str, ...] = ()) -> Endpoint:
    return Endpoint(mode=mode, secrets=tuple(SecretStr(s) for s in secrets or ("whsec_1",)), allow_ips=allow_ips)


def test_secrets_never_show() -> None:
    """A door that lands in a log or a traceback says nothing."""
    door = webhook_endpoints(Config(endpoints={"default": endpoint("whsec_hush")}))["default"]
    assert door.secrets == (b"whsec_hush",)
    assert "hush" not in repr(door)


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
def test_a_config_that_leaves_a_door_open_is_refused(endpoints: dict[str, Endpoint], named: str) -> None:
    """One line that names the place, and no secret in it."""
    with pytest.raises(InvalidSettings, match="BILLING_CONFIG") as caught:
        webhook_endpoints(Config(endpoints=endpoints))
    assert named in str(caught.value)
    assert "whsec" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_endpoints_of_one_mode_may_share_a_secret() -> None:
    """That opens nothing that was not open."""
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
    """The peer's own address decides, in whichever form the socket reports it."""
    door = webhook_endpoints(Config(endpoints={"default": endpoint(allow_ips=networks)}))["default"]
    assert door.admits(peer) is admitted
