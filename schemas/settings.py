"""The settings of all processes: the environment (`BILLING_*`) and one TOML file.

The environment has addresses and credentials. The TOML file has what a team decides: endpoints, plans, mail. An entry
point calls `load_settings` and `load_config` once; no other code reads the settings from the environment.
"""

from __future__ import annotations

import os
import stat
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from schemas.access_policy import AccessPolicy as AccessPolicy
from schemas.console_settings import ConsoleConfig, ConsoleSettings
from schemas.database_settings import DatabaseSettings
from schemas.dunning import DEFAULT_DUNNING as DEFAULT_DUNNING
from schemas.dunning import DunningStep as DunningStep
from schemas.environment import FILE_SUFFIX, InvalidEnvironment, OptionalSecret, secrets_from_files
from schemas.errors import BillingError
from schemas.feed_settings import Feed
from schemas.gateway_settings import GatewaySettings
from schemas.invalid import one_line
from schemas.kafka_names import usable_member
from schemas.kafka_settings import KafkaSettings
from schemas.link_secrets import link_secrets
from schemas.mail_settings import Mail as Mail
from schemas.plugin_registry import UnusablePlugin, install
from schemas.plugin_registry import load as load_plugins
from schemas.retention import Retention

FREE_PLAN = "free"
NAMED_SESSION_S = 10.0
"""The session timeout of a worker with a name, in seconds: its supervisor has that long to restart it."""


class InvalidSettings(BillingError):
    """A setting is missing or invalid. The message is one line that names it."""


class Mode(StrEnum):
    """Stripe's `livemode`, by name."""

    LIVE = "live"
    TEST = "test"

    @property
    def livemode(self) -> bool:
        return self is Mode.LIVE


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Endpoint(_Frozen):
    """One webhook endpoint in Stripe's dashboard. Stripe posts to `/webhooks/stripe/{name}`."""

    secrets: tuple[SecretStr, ...] = ()
    """Complete `whsec_…` strings, two during the rotation of a secret; more can come from the environment or a file
    (schemas/webhook_secrets.py)."""
    connect: bool = False
    """Whether this endpoint receives events of connected accounts (events with `account`)."""
    own_events: bool = False
    """Whether it receives one's own events instead of Stripe's: the types that plugins declare, signed alike."""
    allow_ips: tuple[str, ...] = ()
    """Networks that may post here (CIDR); empty means any."""


class Plan(_Frozen):
    """A plan: the prices that buy it, and its usage limits."""

    name: str
    prices: tuple[str, ...] = ()
    limits: dict[str, int] = Field(default_factory=dict)


class Rules(_Frozen):
    """Times and limits of the rules. The defaults are those of behaviours.md."""

    trial_reminder_days: int = Field(7, ge=1, le=365)
    erase_after_days: int = Field(30, ge=1, le=3650)
    win_back_after_days: int = Field(14, ge=1, le=365)
    waiting_limit_hours: int = Field(72, ge=1, le=8760)
    set_default_payment_method: bool = True
    link_client_reference_id: bool = False
    """Whether a checkout's `client_reference_id` links a user, if it has no `metadata.userId`. A buyer can set it."""
    dunning: tuple[DunningStep, ...] = DEFAULT_DUNNING

    @model_validator(mode="after")
    def _each_dunning_mail_once(self) -> Rules:
        """An invoice gets each mail once, so the second of two steps with the same template would never be sent."""
        templates = [step.template for step in self.dunning]
        attempts = [attempt for step in self.dunning for attempt in step.attempts]
        if len(set(templates)) < len(templates) or len(set(attempts)) < len(attempts):
            raise ValueError("two steps of dunning have the same template or the same attempt")
        if sum(step.final for step in self.dunning) > 1:
            raise ValueError("two steps of dunning are final")
        return self


class Config(_Frozen):
    """The TOML file that `BILLING_CONFIG` names."""

    mode: Mode = Mode.TEST
    """The mode of the whole system: its endpoints, topics, database and Stripe key. Events of the other are refused."""
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of the proxies in front of the gateway. Only from them `X-Forwarded-For` is read."""
    plans: dict[str, Plan] = Field(default_factory=dict)
    """From small to large, in the order of the file."""
    access: AccessPolicy = AccessPolicy()
    console: ConsoleConfig = ConsoleConfig()
    mail: Mail = Mail()
    feed: Feed = Feed()
    """Receivers of notifications about changes (behaviours.md F3)."""
    rules: Rules = Rules()
    retention: Retention = Retention()
    plugins: tuple[str, ...] = ()
    """Packages that add rules, mails and handlers, by the names of their entry points (docs/plugins.md)."""

    @model_validator(mode="before")
    @classmethod
    def _one_mode(cls, given: Any) -> Any:
        """Refuses a file from before 2.0, in which each endpoint had a mode, with the line to write."""
        tables = given.get("endpoints") if isinstance(given, dict) else None
        named = {
            name: table["mode"]
            for name, table in (tables.items() if isinstance(tables, dict) else ())
            if isinstance(table, dict) and "mode" in table
        }
        if not named:
            return given
        modes = {str(mode) for mode in (*named.values(), *([given["mode"]] if "mode" in given else []))}
        where = ", ".join(f"endpoints.{name}" for name in named)
        if len(modes) > 1:
            raise ValueError(
                f"{where}: live and test mode are in one file, but a system serves one mode. Write mode = "
                '"live" or mode = "test" above the first table, remove mode from the endpoints, and move the endpoints '
                "of the other mode to a second system with its own database, topic prefix and Stripe key"
            )
        mode = modes.pop() if modes <= {Mode.LIVE, Mode.TEST} else Mode.TEST
        raise ValueError(
            f'{where}: mode is not a key of an endpoint. Write mode = "{mode}" at the top of the file, and remove it'
        )

    @model_validator(mode="after")
    def _links_fit_for_live_mode(self) -> Config:
        if self.mode is Mode.LIVE and (local := ", ".join(self.mail.local_links)):
            raise ValueError(f'{local}: customers cannot open links to this machine; mode = "live" needs public ones')
        if self.mode is Mode.LIVE and (clear := ", ".join(self.feed.clear_urls)):
            raise ValueError(f'{clear}: mode = "live" needs https://')
        return self

    @model_validator(mode="after")
    def _one_plan_per_price(self) -> Config:
        seen: dict[str, str] = {}
        for plan_id, plan in self.plans.items():
            for price in plan.prices:
                if price in seen:
                    raise ValueError(f"price {price} is in two plans: {seen[price]} and {plan_id}")
                seen[price] = plan_id
        return self

    def plan_of_price(self, price_id: str | None) -> str | None:
        """Returns the plan's id, or None for a price that no plan names (kept as unknown, never guessed)."""
        if price_id is not None:
            for plan_id, plan in self.plans.items():
                if price_id in plan.prices:
                    return plan_id
        return None

    def size_of_plan(self, plan_id: str | None) -> int:
        """Returns the plan's position in the config, where plans are listed from small to large; -1 if unknown."""
        return next((at for at, known in enumerate(self.plans) if known == plan_id), -1)

    def limits_of_plan(self, plan_id: str | None) -> dict[str, int]:
        """Returns the plan's usage limits, {} for an unknown plan."""
        plan = self.plans.get(plan_id or "")
        return dict(plan.limits) if plan else {}


class Settings(DatabaseSettings, KafkaSettings, GatewaySettings, ConsoleSettings):
    """The settings from the environment. Each variable is `BILLING_` + the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", frozen=True, extra="ignore")

    smtp_url: SecretStr = SecretStr("smtp://127.0.0.1:1025")
    """smtp://, smtp+starttls:// or smtps://, with user:password@ if the server requires it."""
    smtp_allow_plaintext: bool = False
    """Allows smtp:// (unencrypted) to a mail server that is not on this machine."""
    smtp_helo_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?$")
    """The name given to the mail server in EHLO. Default: this host's full name, or the domain of `mail.sender`."""
    link_secret: OptionalSecret = None
    """Signs links in mails: 32 bytes or more. Two, separated by a comma, while it is changed: the first signs, both
    verify. Without it mails have no export link, and customers unsubscribe by mail."""
    public_url: str = ""
    """Public URL of the gateway, for those links. By default the config's `mail.app_url`."""
    exports_url: str = ""
    """Where exports are stored, as an fsspec URL: a folder, s3://bucket/folder …; by default `exports` in state_dir.
    Dispatcher and gateway need the same value."""
    portal_api_key: OptionalSecret = None
    """A restricted Stripe key of the gateway, with the right to open customer portals only (`mail.customer_portal`)."""
    stripe_api_key: OptionalSecret = None
    stripe_api_base: str = "https://api.stripe.com"
    stripe_calls_per_second: float = Field(20.0, gt=0, le=100)
    """Limit of each dispatcher. Stripe allows 100 per second in live mode and 25 in test mode for all programs of an
    account together: https://docs.stripe.com/rate-limits"""
    reconcile_every_s: float | None = Field(None, ge=0)
    """Seconds between reconcile runs of the scheduler, which find events that never arrived; 0: off.

    By default daily if there is a Stripe key.
    """
    audit_every_s: float | None = Field(None, ge=0)
    """Seconds between the scheduler's audits (`billing audit`); 0: off. Default: daily if there is a Stripe key."""
    prune_every_s: float = Field(86_400.0, ge=0)
    """Seconds between the scheduler's runs of `billing prune`; 0: off."""
    config_path: Path = Field(validation_alias=AliasChoices("BILLING_CONFIG", "config_path"))

    partitions: int = Field(12, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1)

    ops_host: str = "127.0.0.1"
    ops_port: int = Field(0, ge=0, le=65535)
    """Port on which worker, dispatcher and scheduler serve /livez, /readyz and /metrics; 0: no listener."""

    state_dir: Path = Path(".billing")
    """Local files of a process (Faust's data). Recovery does not need them."""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    traces_url: str = Field("", pattern=r"^(https?://[^\s@]+)?$")
    """An OTLP/HTTP collector for traces, such as http://collector:4318/v1/traces; empty: no traces."""
    traces_ratio: float = Field(1.0, ge=0, le=1)
    """The share of events that are traced, the same events in each process."""
    session_timeout_s: float | None = Field(None, ge=6, le=300)
    """Seconds without a heartbeat after which a worker's partitions move to others, by default 6, or 10 with a
    `member_id`. Brokers refuse less than 6 by default."""
    member_id: Annotated[str, AfterValidator(usable_member)] = ""
    """A name of the worker, unique in its group and stable over restarts (Kafka's group.instance.id). If it restarts
    within the session timeout it continues with its partitions at once. Empty: they wait for the timeout."""
    seen_hours: float = Field(72.0, gt=0)
    """Hours for which a worker remembers settled events: as long as Stripe retries. Older duplicates are dropped by the
    ledger. About 0.1 kB of memory per event."""
    batch_size: int = Field(500, ge=1, le=10_000)
    batch_within_s: float = Field(0.05, gt=0, le=10)
    """The longest pause, in seconds, in which a consumer collects events after a small batch. It ends earlier once the
    batches in flight are committed, but not within its first 30 %."""
    code_version: str = Field("", pattern=r"^[!-~]{0,255}$")
    """Identifies this build in dead letters and for the brake (a tag, a commit); by default the package's version and a
    digest of its files and rules, so it changes with the code."""
    brake_least: int = Field(20, ge=1)
    brake_ratio: float = Field(0.5, gt=0, le=1)
    brake_run: int = Field(50, ge=1)
    stuck_after_s: float = Field(120.0, ge=1, le=3600)
    """Seconds without progress after which a process that has work exits, so that it is restarted."""
    retry_failed_every_s: float | None = Field(None, ge=0, le=86_400)
    """Seconds between the scheduler's replays of the last 24 h's dead letters (`billing replay --failed`); 0: off. By
    default hourly if there is a Stripe key."""

    @field_validator("link_secret")
    @classmethod
    def _link_secret_is_strong(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            link_secrets(given.get_secret_value())
        return given

    @property
    def link_secrets(self) -> tuple[bytes, ...]:
        """Returns the secrets that verify links, the one that signs first; none without BILLING_LINK_SECRET."""
        return link_secrets(self.link_secret.get_secret_value()) if self.link_secret is not None else ()

    @property
    def session_s(self) -> float:
        """Returns the session timeout. A thread of its own sends heartbeats every 0.5 s, so 6 s are twelve of them. An
        event loop that stalls for longer misses none (tests/chaos/test_broken_deploy.py), unless the code keeps the
        interpreter's lock: one long match of a regular expression does."""
        return self.session_timeout_s or (NAMED_SESSION_S if self.member_id else 6.0)

    @property
    def reconcile_pause_s(self) -> float:
        """Returns the seconds between scheduled reconciliations, 0 if there are none."""
        return self._scheduled(self.reconcile_every_s, default=86_400.0)

    @property
    def audit_pause_s(self) -> float:
        """Returns the seconds between scheduled audits, 0 if there are none."""
        return self._scheduled(self.audit_every_s, default=86_400.0)

    @property
    def retry_failed_pause_s(self) -> float:
        """Returns the seconds between scheduled replays of failed events, 0 if there are none."""
        return self._scheduled(self.retry_failed_every_s, default=3_600.0)

    def _scheduled(self, set_to: float | None, *, default: float) -> float:
        if set_to is not None:
            return set_to
        return default if self.stripe_api_key is not None else 0.0

    @property
    def exports_place(self) -> str:
        """Returns `exports_url`, or its default as an absolute path."""
        return self.exports_url or str((self.state_dir / "exports").absolute())


S = TypeVar("S", bound=DatabaseSettings)


def load_settings() -> Settings:
    """Reads the environment. Raises InvalidSettings with one line that names each invalid setting."""
    return load(Settings)


def load_database_settings() -> DatabaseSettings:
    """Reads only the settings of the database, for a command that uses nothing else. Raises as `load_settings`."""
    return load(DatabaseSettings)


def load(kind: type[S]) -> S:
    """Reads the environment into settings of this kind. Raises InvalidSettings."""
    try:
        return kind(**_secrets_from_files(kind))
    except InvalidEnvironment as error:
        raise InvalidSettings(str(error)) from None
    except ValidationError as error:
        raise InvalidSettings(one_line(error, lambda loc: _env_name(str(loc[0])))) from None


def variables() -> set[str]:
    """Returns the variables that are read."""
    names = {_env_name(_variable(name)) for name in Settings.model_fields}
    return names | {name + FILE_SUFFIX for name in secret_variables()}


def _secrets_from_files(kind: type[DatabaseSettings]) -> dict[str, Any]:
    fields = _secret_fields(kind)
    environment = {name.upper(): value for name, value in os.environ.items()}
    return {fields[name]: text for name, text in secrets_from_files(fields, environment).items()}


def secret_variables() -> dict[str, str]:
    """Returns the field of each secret by its variable: each of them can also come from a file."""
    return _secret_fields(Settings)


def _secret_fields(kind: type[DatabaseSettings]) -> dict[str, str]:
    return {
        _env_name(name): name
        for name, field in kind.model_fields.items()
        if field.annotation is SecretStr or SecretStr in get_args(field.annotation)
    }


def _variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field


def load_config(path: Path) -> Config:
    """Reads the TOML file. Raises InvalidSettings with the file's name and the key."""
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IWOTH:
            raise InvalidSettings(f"BILLING_CONFIG: {path}: everyone may write this file: chmod o-w")
        given = tomllib.loads(path.read_bytes().decode())
        install(load_plugins(names if isinstance(names := given.get("plugins", []), list) else []))
        return Config.model_validate(given, context={"folder": path.absolute().parent})
    except UnusablePlugin as error:
        raise InvalidSettings(f"BILLING_CONFIG: {path}: {error}") from None
    except FileNotFoundError:
        raise InvalidSettings(f"BILLING_CONFIG: no such file: {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSettings(f"BILLING_CONFIG: {path}: {error}") from None
    except ValidationError as error:
        line = one_line(error, lambda loc: ".".join(map(str, loc)))
        raise InvalidSettings(f"BILLING_CONFIG: {path}: {line}") from None


def _env_name(field: str) -> str:
    return field if field.startswith("BILLING_") else f"BILLING_{field.upper()}"
