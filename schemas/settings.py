"""What every process is told from outside: the environment (`BILLING_*`) and one TOML file.

The environment holds addresses and credentials; the TOML file holds what a team decides: endpoints, plans, mail.
`load()` is called once, by an entry point; nothing reads the environment after that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.mail import DUNNING_MAILS

FREE_PLAN = "free"


class InvalidSettings(Exception):
    """A setting is missing or cannot be used; the message is one line that names it."""


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
    """One webhook endpoint of Stripe's dashboard, posted to `/webhooks/stripe/{name}`."""

    mode: Mode
    secrets: tuple[SecretStr, ...] = Field(min_length=1)
    """`whsec_…`, whole. Two while a secret is rolled."""
    connect: bool = False
    """Whether this endpoint hears of connected accounts (events with `account`)."""
    allow_ips: tuple[str, ...] = ()
    """Networks that may post here (CIDR); empty means any."""


class Plan(_Frozen):
    """What a price buys."""

    name: str
    prices: tuple[str, ...] = ()
    limits: dict[str, int] = Field(default_factory=dict)


class DunningStep(_Frozen):
    """One step of the sequence that follows a failed invoice (behaviours.md C3)."""

    template: str
    attempts: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Sent on these `attempt_count`s."""
    after_days: int | None = Field(None, ge=1)
    """Or this many days after the first failure, if it is still unpaid then."""
    final: bool = False
    """Or when Stripe has given up: no `next_payment_attempt`, or more attempts than any other step names."""

    @model_validator(mode="after")
    def _is_sent_at_one_time(self) -> DunningStep:
        if self.template not in DUNNING_MAILS:
            raise ValueError(f"{self.template} is no dunning mail: these are {', '.join(sorted(DUNNING_MAILS))}")
        if [bool(self.attempts), self.after_days is not None, self.final].count(True) != 1:
            raise ValueError(f"{self.template} needs one of attempts, after_days and final")
        return self


DEFAULT_DUNNING = (
    DunningStep(template="payment-failed", attempts=(1,)),
    DunningStep(template="payment-reminder", after_days=3),
    DunningStep(template="payment-urgent", attempts=(2, 3)),
    DunningStep(template="payment-final", final=True),
)


class Mail(_Frozen):
    """Who mail comes from, and the links in it."""

    sender: str = "Billing <billing@localhost>"
    operator: str = "billing-operators@localhost"
    reply_to: str | None = None
    """Where answers go, if not to `sender`."""
    product: str = "Your SaaS"
    app_url: str = "http://127.0.0.1:8080"
    export_link_days: int = Field(7, ge=1, le=365)
    """How long the link to an export holds, from when its mail is sent."""
    update_payment_url: str = "http://127.0.0.1:8080/billing/update-payment"
    survey_url: str = "http://127.0.0.1:8080/billing/survey"
    return_url: str = "http://127.0.0.1:8080/billing/plans"
    default_locale: str = "en"
    send_test_mode: bool = False
    """Whether mails of test-mode events leave at all: test data may hold the addresses of real people."""


class Rules(_Frozen):
    """Numbers of the rules, with behaviours.md's as defaults."""

    trial_reminder_days: int = 7
    erase_after_days: int = 30
    win_back_after_days: int = 14
    waiting_limit_hours: int = 72
    set_default_payment_method: bool = True
    dunning: tuple[DunningStep, ...] = DEFAULT_DUNNING

    @model_validator(mode="after")
    def _each_dunning_mail_once(self) -> Rules:
        """An invoice gets a mail once: of two steps that say the same, the second would never be sent."""
        templates = [step.template for step in self.dunning]
        attempts = [attempt for step in self.dunning for attempt in step.attempts]
        if len(set(templates)) < len(templates) or len(set(attempts)) < len(attempts):
            raise ValueError("two steps of dunning have one template, or one attempt")
        if sum(step.final for step in self.dunning) > 1:
            raise ValueError("two steps of dunning are final")
        return self


class Config(_Frozen):
    """The TOML file behind `BILLING_CONFIG`."""

    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    plans: dict[str, Plan] = Field(default_factory=dict)
    mail: Mail = Mail()
    rules: Rules = Rules()

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
        """The plan's id, or None for a price that no plan names (kept as unknown, never guessed)."""
        if price_id is None:
            return None
        return next((plan_id for plan_id, plan in self.plans.items() if price_id in plan.prices), None)

    def limits_of_plan(self, plan_id: str | None) -> dict[str, int]:
        """The plan's usage limits; an unknown plan has none."""
        plan = self.plans.get(plan_id or "")
        return dict(plan.limits) if plan else {}


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_blank_is_none)]


class Settings(BaseSettings):
    """The environment. Each field is `BILLING_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", frozen=True, extra="ignore")

    kafka_bootstrap: str
    database_url: SecretStr
    """postgresql://user:password@host:port/database"""
    smtp_url: SecretStr = SecretStr("smtp://127.0.0.1:1025")
    """smtp://, smtp+starttls:// or smtps://, with user:password@ where the server asks for it."""
    link_secret: OptionalSecret = None
    """Signs links in mails (exports, unsubscribe); without it the one is left out, the other is by mail."""
    public_url: str = ""
    """Where people reach the gateway, for those links; by default under the config's `mail.app_url`."""
    exports_url: str = ""
    """Where exports are kept, as fsspec writes it: a folder, s3://bucket/folder …; by default `exports` in state_dir.
    Dispatcher and gateway need the same."""
    stripe_api_key: OptionalSecret = None
    stripe_api_base: str = "https://api.stripe.com"
    stripe_calls_per_second: float = Field(20.0, gt=0, le=100)
    """Of each dispatcher. Stripe takes 100 a second in live mode, 25 in test mode, from all of an account's programs:
    https://docs.stripe.com/rate-limits"""
    reconcile_every_s: float = Field(0, ge=0)
    """How often the scheduler asks Stripe what never arrived, in seconds (86400: daily); 0 switches it off."""
    config_path: Path = Field(validation_alias=AliasChoices("BILLING_CONFIG", "config_path"))

    topic_prefix: str = "billing"
    """`{prefix}.events`, `{prefix}.dead`; also the stem of the consumer groups' names."""
    partitions: int = Field(12, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1)

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(8080, ge=0, le=65535)
    gateway_processes: int = Field(1, ge=1, le=64)
    ops_host: str = "127.0.0.1"
    ops_port: int = Field(0, ge=0, le=65535)
    """Where worker, dispatcher and scheduler answer /livez, /readyz, /metrics; 0 switches that listener off."""

    state_dir: Path = Path(".billing")
    """Local files of a process (Faust's data); nothing in it is needed to recover."""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    session_timeout_s: float = Field(10.0, ge=6, le=300)
    """How long a worker may be silent before its partitions go to others; brokers refuse less than 6 by default."""
    member_id: str = ""
    """A worker's own name in its group, which it keeps over restarts and no other has (Kafka's group.instance.id): back
    within the session timeout after a crash, it goes on with its partitions at once. Empty: they wait it out."""
    seen_hours: float = Field(35 * 24.0, gt=0)
    """How long a worker remembers what it has settled: Stripe retries for 3 days and lists events for 30. What it has
    forgotten the ledger stops. About 0.15 kB of memory for each event."""
    batch_size: int = Field(500, ge=1, le=10_000)
    batch_within_s: float = Field(0.05, gt=0, le=10)
    code_version: str = ""
    """What dead letters and the brake know this build by (a tag, a commit); by default the package's version."""
    brake_window: int = Field(200, ge=1, le=100_000)
    """A worker stops when of so many events `brake_ratio` and `brake_least` at least died, or `brake_run` in a row."""
    brake_least: int = Field(20, ge=1)
    brake_ratio: float = Field(0.5, gt=0, le=1)
    brake_run: int = Field(50, ge=1)
    stuck_after_s: float = Field(120.0, ge=1, le=3600)
    """A process that has work and does not move for so long ends itself, to be started again."""
    retry_failed_every_s: float = Field(0.0, ge=0, le=86_400)
    """How often the scheduler replays what died within the last 24 h, as `billing replay --failed` does; 0: never."""

    @property
    def exports_place(self) -> str:
        """`exports_url`, or its default as an absolute path."""
        return self.exports_url or str((self.state_dir / "exports").absolute())

    @property
    def events_topic(self) -> str:
        return f"{self.topic_prefix}.events"

    @property
    def dead_topic(self) -> str:
        return f"{self.topic_prefix}.dead"


def load_settings() -> Settings:
    """The environment as settings. Raises InvalidSettings, one line naming each setting that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings(_one_line(error, lambda loc: _env_name(str(loc[0])))) from None


def load_config(path: Path) -> Config:
    """The TOML file as config. Raises InvalidSettings with the file's name and the key."""
    try:
        text = path.read_bytes().decode()
        return Config.model_validate(tomllib.loads(text))
    except FileNotFoundError:
        raise InvalidSettings(f"BILLING_CONFIG: no such file: {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(f"BILLING_CONFIG: {path}: {error}") from None
    except ValidationError as error:
        line = _one_line(error, lambda loc: ".".join(map(str, loc)))
        raise InvalidSettings(f"BILLING_CONFIG: {path}: {line}") from None


def _env_name(field: str) -> str:
    return field if field.startswith("BILLING_") else f"BILLING_{field.upper()}"


def _one_line(error: ValidationError, name: Callable[[tuple[int | str, ...]], str]) -> str:
    # Never `error["input"]`: the value may be a secret.
    return "; ".join(f"{name(e['loc'] or ('config',))}: {e['msg']}" for e in error.errors(include_input=False))


CLOCK_OFFSET = "BILLING_CLOCK_OFFSET_S"
"""Seconds that the clock is ahead."""
