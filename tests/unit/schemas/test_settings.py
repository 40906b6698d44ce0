"""The environment: Kafka's security settings, secrets from files, and variables that nothing reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.kafka_access import SaslMechanism
from schemas.process_settings import start_warnings
from schemas.settings import InvalidSettings, Settings, load_settings

SECRETS = {
    "OLD_DATABASE_URL",
    "CONSOLE_OIDC_SECRET",
    "CONSOLE_TOKEN",
    "DATABASE_DIRECT_URL",
    "DATABASE_URL",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_KEY_PASSWORD",
    "LINK_SECRET",
    "PORTAL_API_KEY",
    "SMTP_URL",
    "STRIPE_API_KEY",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import os

    for name in list(os.environ):
        if name.startswith("BILLING_") and not name.startswith("BILLING_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://u:p@127.0.0.1/a")
    monkeypatch.setenv("BILLING_CONFIG", "billing.toml")
    return monkeypatch


def refused(environment: pytest.MonkeyPatch, **values: str) -> str:
    for name, value in values.items():
        environment.setenv(f"BILLING_{name}", value)
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    line = str(caught.value)
    assert "\n" not in line
    return line


def given(environment: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        environment.setenv(f"BILLING_{name}", value)
    return load_settings()


def test_a_login_is_read(environment: pytest.MonkeyPatch) -> None:
    access = given(
        environment,
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME="u",
        KAFKA_SASL_PASSWORD="p-hidden",
        KAFKA_CONFIG="client.rack=a,socket.keepalive.enable=true",
    ).kafka
    assert (access.protocol, access.mechanism, access.username) == ("SASL_SSL", SaslMechanism.PLAIN, "u")
    assert access.properties()["sasl.password"] == "p-hidden"
    assert access.config == {"client.rack": "a", "socket.keepalive.enable": "true"}
    assert "p-hidden" not in repr(access)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, ["SECURITY_PROTOCOL=SASL_SSL", "SASL_USERNAME", "SASL_PASSWORD"]),
        ({"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "hidden"}, ["SASL_USERNAME", "SECURITY_PROTOCOL"]),
        ({"KAFKA_SSL_CA": "/ca.pem"}, ["KAFKA_SSL_", "SECURITY_PROTOCOL=PLAINTEXT"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA": "/no/ca.pem"}, ["KAFKA_SSL_CA", "/no/ca.pem"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERT": "/c.pem"}, ["SSL_CERT", "SSL_KEY"]),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, ["KAFKA_SECURITY_PROTOCOL"]),
        ({"KAFKA_SASL_MECHANISM": "OAUTHBEARER"}, ["KAFKA_SASL_MECHANISM", "does not log in again"]),
        ({"KAFKA_BOOTSTRAP": "sasl_ssl://kafka:9096"}, ["KAFKA_BOOTSTRAP", "KAFKA_SECURITY_PROTOCOL"]),
        ({"KAFKA_CONFIG": "acks=0"}, ["KAFKA_CONFIG", "acks"]),
        *(
            ({"TOPIC_PREFIX": prefix}, ["BILLING_TOPIC_PREFIX", "1 to 100 of the characters"])
            for prefix in ("", " ", "a b", "a/b", "../x", "über", "a,b", "a:b", "billing\n", "x" * 101, "a\udcff")
        ),
        *(
            ({"MEMBER_ID": member}, ["BILLING_MEMBER_ID", "characters"])
            for member in ("a b", "worker/1", "wörker", ".", "..", "x" * 250, "worker-1\n")
        ),
        *(({"CODE_VERSION": version}, ["BILLING_CODE_VERSION"]) for version in ("a\nb", "x" * 256, "é")),
    ],
)
def test_settings_that_do_not_fit_are_named(
    environment: pytest.MonkeyPatch, values: dict[str, str], named: list[str]
) -> None:
    line = refused(environment, **values)
    assert all(name in line for name in named)
    assert "BILLING_CONFIG" not in line
    assert "hidden" not in line


def test_names_that_kafka_takes_are_taken(environment: pytest.MonkeyPatch) -> None:
    made = given(environment, TOPIC_PREFIX="x" * 100, MEMBER_ID="Worker_1." + "x" * 240, CODE_VERSION="v1.2+abc/def")
    assert made.events_topic == "x" * 100 + ".events"
    assert given(environment, TOPIC_PREFIX="Billing_eu-1.test", MEMBER_ID="").member_id == ""


def test_files_that_are_no_certificates_are_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    line = refused(environment, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CA=str(tmp_path / "ca.pem"))
    assert "BILLING_KAFKA_SSL_CA" in line


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_each_secret_can_come_from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    environment.delenv(f"BILLING_{name}", raising=False)
    if name == "KAFKA_SASL_PASSWORD":
        environment.setenv("BILLING_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
        environment.setenv("BILLING_KAFKA_SASL_USERNAME", "u")
    elif name == "KAFKA_SSL_KEY_PASSWORD":
        environment.setenv("BILLING_KAFKA_SECURITY_PROTOCOL", "SSL")
    path = tmp_path / "secret"
    value = (
        "postgresql://u:p@127.0.0.1/db" if name.startswith("DATABASE") else "a s3cret of more than 32 bytes with space "
    )
    path.write_text(value + "\r\n")
    found = getattr(given(environment, **{f"{name}_FILE": str(path)}), name.lower())
    assert found.get_secret_value() == value


def test_every_secret_setting_is_listed_here() -> None:
    assert {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)} == (
        SECRETS
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"a\nb\n", "line")],
)
def test_a_secret_file_that_cannot_be_used_is_one_line(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    line = refused(environment, STRIPE_API_KEY_FILE=str(path))
    assert line.startswith("BILLING_STRIPE_API_KEY_FILE: ")
    assert reason in line


def test_a_secret_given_twice_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://b")
    line = refused(environment, DATABASE_URL_FILE=str(tmp_path / "url"))
    assert "BILLING_DATABASE_URL and BILLING_DATABASE_URL_FILE" in line


def test_a_misspelt_variable_is_reported_with_the_nearest_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_KAFKA_SECURTY_PROTOCOL", "SASL_SSL")
    environment.setenv("BILLING_DATABASE_URL_FIEL", "/secret")
    environment.setenv("BILLING_GATEWAY_SERVICE_HOST", "10.0.0.1")
    environment.setenv("BILLING_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1")
    environment.setenv("BILLING_CLOCK_OFFSET_S", "0")
    assert start_warnings(load_settings()) == [
        "BILLING_DATABASE_URL_FIEL is not a setting and has no effect; did you mean BILLING_DATABASE_URL_FILE?",
        "BILLING_KAFKA_SECURTY_PROTOCOL is not a setting and has no effect; did you mean "
        "BILLING_KAFKA_SECURITY_PROTOCOL?",
    ]


def test_plaintext_beyond_loopback_is_reported(environment: pytest.MonkeyPatch) -> None:
    assert start_warnings(load_settings()) == []
    (line,) = start_warnings(given(environment, KAFKA_BOOTSTRAP="127.0.0.1:9092,kafka.example:9092"))
    assert line.startswith("BILLING_KAFKA_SECURITY_PROTOCOL=PLAINTEXT: events cross the network")
