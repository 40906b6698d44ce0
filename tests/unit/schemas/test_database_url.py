"""The address of Postgres: nothing leaves this machine unencrypted unless a setting allows it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from schemas.database_url import DatabaseUrl, InvalidDatabaseUrl, Pooler, parse
from schemas.settings import InvalidSettings, load_settings


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("postgresql://u:p@127.0.0.1:5432/d", "prefer"),
        ("postgresql+asyncpg://u:p@localhost/d", "prefer"),
        ("postgres://u:p@[::1]:5432/d?sslmode=disable", "disable"),
        ("postgresql://u@/d?host=/run/postgresql", "prefer"),
        ("postgresql:///d", "prefer"),
        ("postgresql://u:p@db.example.com/d", "require"),
        ("postgresql://u:p@10.0.0.5/d?sslmode=verify-full&sslrootcert=/dev/null", "verify-full"),
        ("postgresql://u:p@127.0.0.1:1,db2:2/d", "require"),
        ("postgresql://u@/d?host=db.example.com", "require"),
    ],
)
def test_the_tls_mode_in_effect(url: str, tls: str) -> None:
    address = parse(url)
    assert address.tls == tls
    assert f"sslmode={tls}" in address.dsn
    assert address.dsn.startswith("postgresql://")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize("host", ["db.example.com:5432", "192.168.1.9", "127.0.0.1,db2", "[2001:db8::1]"])
def test_a_remote_server_without_tls_must_be_allowed(host: str, mode: str) -> None:
    url = f"postgresql://u:hunter2@{host}/d?sslmode={mode}"
    with pytest.raises(InvalidDatabaseUrl, match="BILLING_DATABASE_ALLOW_PLAINTEXT") as refused:
        parse(url)
    assert "hunter2" not in str(refused.value)
    assert parse(url, allow_plaintext=True).tls == mode


def test_T33_a_url_without_a_host_is_as_remote_as_the_host_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert parse("postgresql:///d").tls == "require"
    with pytest.raises(InvalidDatabaseUrl, match="BILLING_DATABASE_ALLOW_PLAINTEXT"):
        parse("postgresql://u@/d?sslmode=disable")
    assert parse("postgresql://u@127.0.0.1/d").tls == "prefer"
    monkeypatch.setenv("PGHOST", "/run/postgresql")
    assert parse("postgresql:///d").tls == "prefer"


@pytest.mark.parametrize("url", ["postgresql:///d?service=prod", "postgresql://u:hunter2@127.0.0.1/d?service=prod"])
def test_T33_a_server_named_by_a_libpq_service_is_refused(url: str) -> None:
    """Its host is in a file that only the driver reads, so nothing here would ask for TLS."""
    for allow_plaintext in (True, False):
        with pytest.raises(InvalidDatabaseUrl, match="name its host") as refused:
            parse(url, allow_plaintext=allow_plaintext)
        assert "hunter2" not in str(refused.value)


def test_T33_a_libpq_service_of_the_environment_counts_where_the_url_has_no_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGSERVICE", "prod")
    with pytest.raises(InvalidDatabaseUrl, match="name its host"):
        parse("postgresql:///d")
    assert parse("postgresql://u@127.0.0.1/d").tls == "prefer"
    monkeypatch.setenv("PGSERVICE", "")
    assert parse("postgresql:///d").tls == "prefer"


def test_plaintext_that_is_allowed_is_not_chosen_if_the_server_has_tls() -> None:
    assert parse("postgresql://u@postgres/d", allow_plaintext=True).tls == "prefer"


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "hunter2", "postgresql://u:hunter2@h:x/d", "postgresql://h:0/hunter2",
     "postgresql://u:hunter2@127.0.0.1/d?sslmode=maybe", "postgresql://u:hunter2@h/d?sslrootcert=/absent.pem", "postgresql://a:1,h:99999/hunter2"],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl) as refused:
        parse(url)
    assert "hunter2" not in str(refused.value)


def test_of_several_hosts_the_one_that_accepts_writes_is_used() -> None:
    assert "target_session_attrs=read-write" in parse("postgresql://u@127.0.0.1:1,127.0.0.1:2/d").dsn
    chosen = parse("postgresql://u@127.0.0.1:1,127.0.0.1:2/d?target_session_attrs=any").dsn
    assert "target_session_attrs=any" in chosen
    assert "target_session_attrs" not in parse("postgresql://u@127.0.0.1/d").dsn


def test_the_settings_carry_pooler_and_direct_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KAFKA_BOOTSTRAP": "127.0.0.1:1", "CONFIG": "x", "DATABASE_URL": "postgresql://u:p@127.0.0.1:6432/d",
        "DATABASE_POOLER": "transaction", "DATABASE_DIRECT_URL": "postgresql://u:p@127.0.0.1:5432/d",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"BILLING_{name}", value)
    url = DatabaseUrl.of(load_settings().database_url)
    assert url.pooler is Pooler.TRANSACTION
    assert "5432" in url.without_pooler().get_secret_value()
    assert "p@" not in repr(url)
    monkeypatch.setenv("BILLING_DATABASE_DIRECT_URL", "postgresql://u:hunter2@db/d?sslmode=disable")
    with pytest.raises(InvalidSettings, match="BILLING_DATABASE_DIRECT_URL: sslmode=disable") as refused:
        load_settings()
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_another_database_is_addressed_with_the_same_permission() -> None:
    allowing = DatabaseUrl("postgresql://u@postgres/d", allow_plaintext=True)
    assert allowing.for_other(SecretStr("postgresql://u@other/d")).address().tls == "prefer"
