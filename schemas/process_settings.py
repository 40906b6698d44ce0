"""What each long-running process reads of the settings: it needs no other secret, and is not given one by compose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from schemas.environment import FILE_SUFFIX, unknown_variables
from schemas.settings import Settings, load, secret_variables, variables

_KAFKA = {"kafka_sasl_password", "kafka_ssl_key_password"}
_POSTGRES = {"database_url", "database_direct_url"}

SECRETS: Mapping[str, frozenset[str]] = {
    "gateway": frozenset(_KAFKA | _POSTGRES | {"link_secret", "portal_api_key"}),
    "worker": frozenset(_KAFKA | _POSTGRES),
    "dispatcher": frozenset(_KAFKA | _POSTGRES | {"smtp_url", "stripe_api_key", "link_secret"}),
    "scheduler": frozenset(_KAFKA | _POSTGRES | {"stripe_api_key"}),
    "analytics": frozenset(_KAFKA | _POSTGRES),
    "console": frozenset(_KAFKA | _POSTGRES | {"console_token", "console_oidc_secret"}),
    "topics": frozenset(_KAFKA | _POSTGRES),
}
"""The secret settings that each process uses, and `billing topics`, which runs before them.

Webhook secrets are read by the gateway alone.
"""

_WITHOUT_DATABASE = {"gateway", "topics"}


class WithoutDatabase(Settings):
    """Settings of `billing gateway`, which reaches Postgres only to serve links, and of `billing topics`."""

    needs_no_database: ClassVar[bool] = True
    database_url: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _links_need_a_database(self) -> Self:
        if self.link_secret is not None and not self.database_url.get_secret_value():
            raise PydanticCustomError(
                "database_url", "BILLING_DATABASE_URL: needed to serve the links that BILLING_LINK_SECRET signs"
            )
        return self


class LogOnly(WithoutDatabase):
    """Settings of a command that reads only the log: it needs no database and no config."""

    config_path: Path = Field(Path(), validation_alias=AliasChoices("BILLING_CONFIG", "config_path"))

    @model_validator(mode="after")
    def _links_need_a_database(self) -> Self:
        return self


def load_log_settings() -> Settings:
    """Reads the environment for a command that reads only the log. Raises InvalidSettings."""
    return load(LogOnly)


def load_process_settings(process: str) -> Settings:
    """Reads the environment for `billing PROCESS`, without secrets that it does not use. Raises InvalidSettings."""
    settings = load(WithoutDatabase if process in _WITHOUT_DATABASE else Settings)
    unused = set(secret_variables().values()) - SECRETS[process]
    return settings.model_copy(
        update={name: field.default for name, field in Settings.model_fields.items() if name in unused}
    )


def unused_secrets(process: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns one line that names the secrets in the environment that the process does not use, None without any."""
    names = [
        variable
        for variable, field in sorted(secret_variables().items())
        if field not in SECRETS.get(process, {field})
        and (environment.get(variable) or environment.get(variable + FILE_SUFFIX))
    ]
    if not names:
        return None
    return f"{', '.join(names)}: billing {process} does not use it; give each process its own secrets only"


def start_warnings(settings: Settings) -> list[str]:
    """Returns one line for each variable that nothing reads, and for each connection without protection."""
    warnings = unknown_variables(variables(), os.environ)
    if settings.kafka.is_plain_beyond_loopback:
        warnings.append(
            f"BILLING_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}: events cross the network to "
            f"{settings.kafka_bootstrap} in clear; use SASL_SSL or SSL"
        )
    return warnings
