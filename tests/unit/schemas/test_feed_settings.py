"""The feed's settings: which receivers, secrets and addresses are refused (behaviours.md F3)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from schemas.feed_message import ChangeMessage
from schemas.feed_secrets import feed_secrets, new_secret, secret_variable
from schemas.feed_settings import TYPES, Destination, Feed, weakness_of
from schemas.network import is_reachable
from schemas.settings import Config, InvalidSettings
from tests.kits.feedkit import OTHER_SECRET, SECRET

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::10.0.0.1",
    "2002:a00:1::1",
    "2001:0:0:0:0:0:f5ff:fffe",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_F3_private_addresses_are_not_reachable_in_any_form(address: str) -> None:
    assert not is_reachable(ip_address(address), [])


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_F3_public_addresses_are_reachable(address: str) -> None:
    assert is_reachable(ip_address(address), [])


def test_F3_an_allowed_network_is_reachable_in_any_form() -> None:
    allowed = [ip_network("10.0.0.0/8")]
    assert is_reachable(ip_address("10.1.1.1"), allowed)
    assert is_reachable(ip_address("::ffff:10.1.1.1"), allowed)
    assert not is_reachable(ip_address("192.168.0.1"), allowed)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/hook",
        "https:///hook",
        "https://user:hunter2@example.com/hook",
        "https://example.com/hook#part",
        "https://example.com/ho ok",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://127.1/hook",
        "https://2130706433/hook",
        "https://１２７.0.0.1/hook",  # noqa: RUF001  # digits that are not ASCII
        "https://example.com:99999/hook",
    ],
)
def test_F3_an_address_that_cannot_be_a_receiver_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Destination(url=url)
    assert "hunter2" not in str(refused.value.errors(include_input=False)[0]["msg"])


def test_F3_live_mode_needs_https_outside_named_networks() -> None:
    def feed(**more: object) -> dict[str, object]:
        return {"destinations": {"app": {"url": "http://hooks.example.com/", **more}}}

    mail = dict.fromkeys(("app_url", "update_payment_url", "survey_url", "return_url"), "https://app.example.com")
    with pytest.raises(ValidationError, match=r"feed\.destinations\.app\.url: mode = \"live\" needs https://"):
        Config.model_validate({"mode": "live", "mail": mail, "feed": feed()})
    Config.model_validate({"mode": "live", "mail": mail, "feed": feed(allow_networks=["10.0.0.0/8"])})


def test_F3_events_are_chosen_by_pattern() -> None:
    one = Destination(url="https://example.com/", events=("access.*", "payment.failed"))
    assert [type_ for type_ in TYPES if one.wants(type_)] == ["access.changed", "payment.failed"]
    feed = Feed(destinations={"app": one}, topic=True)
    assert feed.receivers("access.changed") == ["app", "topic"]
    assert feed.receivers("dunning.step") == ["topic"]
    with pytest.raises(ValidationError, match="no such event: acess"):
        Destination(url="https://example.com/", events=("acess.*",))


@pytest.mark.parametrize("name", ["topic", "App", "a b", "", "a" * 50])
def test_F3_a_name_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not a name"):
        Feed(destinations={name: Destination(url="https://example.com/")})


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_", "whsec_short", "whsec_" + "A" * 44, "whsec_!!!!" + "a" * 40]
)
def test_F3_a_weak_secret_is_refused_without_being_shown(secret: str) -> None:
    reason = weakness_of(secret)
    assert reason is not None
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in reason


def test_F3_secrets_come_from_the_environment_a_file_and_the_config(tmp_path: Path) -> None:
    one = Destination.model_validate({"url": "https://example.com/", "secrets": [SECRET]})
    assert feed_secrets("app", one, {}) == (SECRET,)
    assert feed_secrets("app", one, {secret_variable("app"): OTHER_SECRET}) == (OTHER_SECRET, SECRET)
    file = tmp_path / "secret"
    file.write_text(f"{OTHER_SECRET}\n")
    assert feed_secrets("app", one, {f"{secret_variable('app')}_FILE": str(file)}) == (OTHER_SECRET, SECRET)
    none = Destination(url="https://example.com/")
    for environment, message in (
        ({}, "has no secret: set BILLING_FEED_SECRET_APP"),
        ({secret_variable("app"): "hunter2"}, "does not begin with whsec_"),
        ({secret_variable("app"): ",".join(new_secret() for _ in range(3))}, "has 3 secrets"),
    ):
        with pytest.raises(InvalidSettings, match=message) as refused:
            feed_secrets("app", none, environment)
        assert "hunter2" not in str(refused.value)


def test_F3_the_types_are_those_of_the_contract() -> None:
    assert get_args(ChangeMessage.model_fields["type"].annotation) == TYPES


def test_two_destinations_never_share_the_variable_of_their_secrets() -> None:
    both = {name: Destination(url="https://app.example.com") for name in ("app-eu", "app_eu")}
    with pytest.raises(ValidationError, match="differ only in - and _"):
        Feed(destinations=both)


def test_a_list_of_secrets_may_have_blanks() -> None:
    given = {"BILLING_FEED_SECRET_APP": f"{SECRET}, {OTHER_SECRET}"}
    assert feed_secrets("app", Destination(url="https://app.example.com"), given) == (SECRET, OTHER_SECRET)
