"""T31: each process has only the secrets that it uses."""

from __future__ import annotations

import pytest

from schemas.process_settings import SECRETS, load_log_settings, load_process_settings, unused_secrets
from schemas.settings import InvalidSettings, secret_variables
from tests.unit.schemas.test_settings import environment as environment  # a fixture

LINK_SECRET = "c81f0d4b6e2a9735f4d07b8c1e5a3926"


def test_T31_a_process_does_not_keep_a_secret_that_it_does_not_use(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BILLING_STRIPE_API_KEY", "sk_test_hidden")
    environment.setenv("BILLING_LINK_SECRET", LINK_SECRET)
    environment.setenv("BILLING_SMTP_URL", "smtp://u:hidden@127.0.0.1:25")
    for process in SECRETS:
        settings = load_process_settings(process)
        assert (settings.stripe_api_key is not None) == (process in ("dispatcher", "scheduler"))
        assert (settings.link_secret is not None) == (process in ("dispatcher", "gateway"))
        assert ("hidden" in settings.smtp_url.get_secret_value()) == (process == "dispatcher")


def test_T31_unused_secrets_are_named_in_one_line_without_their_values(environment: pytest.MonkeyPatch) -> None:
    assert unused_secrets("gateway") is None
    environment.setenv("BILLING_STRIPE_API_KEY", "sk_test_hidden")
    environment.setenv("BILLING_SMTP_URL_FILE", "/run/secrets/smtp")
    line = unused_secrets("gateway")
    assert line is not None
    assert line.startswith("BILLING_SMTP_URL, BILLING_STRIPE_API_KEY: billing gateway does not use it")
    assert "hidden" not in line
    assert unused_secrets("dispatcher") is None
    assert unused_secrets("replay") is None  # a command may use any of them


def test_T31_every_secret_is_used_by_some_process() -> None:
    of_commands = {"old_database_url"}  # `billing shadow report`
    assert set().union(*SECRETS.values()) | of_commands == set(secret_variables().values())


def test_T31_a_gateway_without_links_needs_no_database(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("BILLING_DATABASE_URL")
    assert load_process_settings("gateway").database_url.get_secret_value() == ""
    environment.setenv("BILLING_LINK_SECRET", LINK_SECRET)
    with pytest.raises(InvalidSettings, match="BILLING_DATABASE_URL: needed to serve the links"):
        load_process_settings("gateway")
    with pytest.raises(InvalidSettings, match="BILLING_DATABASE_URL is not set"):
        load_process_settings("worker")


def test_G50_a_command_that_reads_only_the_log_needs_no_database_and_no_config(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("BILLING_DATABASE_URL")
    environment.delenv("BILLING_CONFIG")
    environment.setenv("BILLING_LINK_SECRET", LINK_SECRET)
    assert load_log_settings().events_topic
    environment.delenv("BILLING_KAFKA_BOOTSTRAP")
    with pytest.raises(InvalidSettings, match=r"^BILLING_KAFKA_BOOTSTRAP is not set$"):
        load_log_settings()
