"""The token that signs in to the console once: the console refuses one that can be guessed, other processes start."""

from __future__ import annotations

import secrets

import pytest

from console.app import check_token, create_console
from schemas.process_settings import load_process_settings
from schemas.settings import Config, InvalidSettings, Settings, load_settings


def settings_with(environment: pytest.MonkeyPatch, token: str) -> Settings:
    environment.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    environment.setenv("BILLING_DATABASE_URL", "postgresql://u:p@127.0.0.1/a")
    environment.setenv("BILLING_CONFIG", "billing.toml")
    environment.setenv("BILLING_CONSOLE_TOKEN", token)
    return load_settings()


@pytest.mark.parametrize(
    "token",
    [
        *("x", "0123456789abcdef" * 4, "a" * 64, "open-sesame-open-sesame-open-sesame"),
        *("correct-horse-battery-staple-now", "billing-console-token-production", "MySuperSecretConsoleToken2026!!!!"),
        *("<32 random characters of your own>", "CHANGEME-9f8a7c6d5e4b3a2f1e0d9c8b", "9f3c1e7ab2d84506fe91c7b3a80d52"),
    ],
)
def test_T30_a_console_token_that_can_be_guessed_ends_the_console_alone(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    settings = settings_with(monkeypatch, token)
    with pytest.raises(InvalidSettings, match="BILLING_CONSOLE_TOKEN") as caught:
        create_console(settings, Config())
    assert len(token) == 1 or token not in str(caught.value)
    for process in ("gateway", "worker", "dispatcher", "scheduler"):
        assert load_process_settings(process).console_token is None


def test_T30_a_random_console_token_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in (secrets.token_hex(16), secrets.token_hex(32), secrets.token_urlsafe(32)):
        check_token(settings_with(monkeypatch, token))
