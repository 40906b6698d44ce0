"""The settings of Postgres, which every process has and a lookup needs alone."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.database_url import DatabaseUrl, InvalidDatabaseUrl, Pooler
from schemas.environment import OptionalSecret
from schemas.kafka_names import usable_prefix


class DatabaseSettings(BaseSettings):
    """How to reach Postgres, and the names and defaults that lookups in it need."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", frozen=True, extra="ignore")
    needs_no_database: ClassVar[bool] = False
    """Whether BILLING_DATABASE_URL may be missing (schemas/process_settings.py)."""

    database_pooler: Pooler = Pooler.AUTO
    """What is in front of Postgres: `none`, `session` or `transaction` (PgBouncer's pool_mode). `auto` finds out."""
    database_direct_url: OptionalSecret = None
    """Postgres without the pooler, for migrations, LISTEN and session locks. Needed with transaction pooling."""
    old_database_url: OptionalSecret = None
    """The old system's Postgres, for `billing shadow report --against-table`. By default the table is in ours."""
    database_allow_plaintext: bool = False
    """Allows unencrypted connections to a Postgres that is not on this machine."""
    database_url: SecretStr
    """postgresql://user:password@host:port/database?sslmode=verify-full; several hosts as host:port,host:port. A
    remote host without sslmode gets sslmode=require."""
    payloads_url: str = ""
    """Where `billing prune` archives payloads before it ends them, as an fsspec URL: a whole path, s3://bucket/folder.
    Empty: they are not archived. Scheduler, dispatcher, console and commands need the same value."""
    topic_prefix: Annotated[str, AfterValidator(usable_prefix)] = "billing"
    """Prefix of the topics (`{prefix}.events`, `{prefix}.dead`) and of the names of the consumer groups."""
    role_prefix: str = Field("billing", pattern=r"^[a-z_][a-z0-9_]{0,40}$")
    """Prefix of the roles that `billing migrate --roles` makes: `billing_worker`, `billing_gateway` and so on."""
    brake_window: int = Field(200, ge=1, le=100_000)
    """A worker stops if, of this many latest events, at least `brake_least` and the share `brake_ratio` died, or if
    `brake_run` events in a row died."""

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        if cls.needs_no_database and not url.get_secret_value():
            return url
        direct: SecretStr | None = info.data.get("database_direct_url")
        found = DatabaseUrl(
            url.get_secret_value(),
            pooler=info.data.get("database_pooler", Pooler.AUTO),
            direct=direct.get_secret_value() if direct is not None else None,
            allow_plaintext=info.data.get("database_allow_plaintext", False),
        )
        for checked, prefix in ((found, ""), (found.without_pooler(), "BILLING_DATABASE_DIRECT_URL: ")):
            try:
                checked.address()
            except InvalidDatabaseUrl as error:
                raise PydanticCustomError("database_url", "{reason}", {"reason": f"{prefix}{error}"}) from None
        return found

    @property
    def events_topic(self) -> str:
        return f"{self.topic_prefix}.events"

    @property
    def dead_topic(self) -> str:
        return f"{self.topic_prefix}.dead"

    @property
    def changes_topic(self) -> str:
        return f"{self.topic_prefix}.changes"
