"""The settings of the operator's console: its part of `Settings`, and table `[console]` of the TOML file."""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from schemas.environment import OptionalSecret

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts that name this machine."""


class Role(IntEnum):
    """What a person may do in the console. Each role may do everything that the roles before it may do."""

    VIEWER = 1
    """Sees pages with personal data masked and without payloads."""
    SUPPORT = 2
    """Reveals personal data and payloads, and resends mails."""
    FINANCE = 3
    """Sees revenue, dunning and the money behind failures."""
    OPERATOR = 4
    """Replays and discards dead letters, releases the brake, queues outbox entries again, fires timers."""
    ADMIN = 5
    """Reads the record of all actions."""

    @property
    def label(self) -> str:
        return self.name.lower()


def _read_role(given: Any) -> Any:
    if isinstance(given, str) and given.upper() in Role.__members__:
        return Role[given.upper()]
    if isinstance(given, Role):
        return given
    raise ValueError(f"a role is one of {', '.join(role.label for role in Role)}")


RoleName = Annotated[Role, BeforeValidator(_read_role)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConsoleUser(_Frozen):
    """A person who signs in with a password."""

    password: SecretStr
    """What `billing console hash-password` printed: `scrypt$…`, never the password itself."""
    role: RoleName

    @field_validator("password")
    @classmethod
    def _is_a_hash(cls, given: SecretStr) -> SecretStr:
        parts = given.get_secret_value().split("$")
        if len(parts) != 6 or parts[0] != "scrypt" or not all(part.isdigit() for part in parts[1:4]):
            raise ValueError("not a hash: `billing console hash-password` prints one")
        return given


class ConsoleProxy(_Frozen):
    """A proxy in front of the console that has signed the person in and names them in a header."""

    networks: tuple[str, ...] = Field(min_length=1)
    """Networks (CIDR) of the proxy. From any other address the header is ignored."""
    header: str = "X-Forwarded-User"
    groups_header: str = ""
    """A header with the person's groups, separated by commas; empty: none is read."""
    users: dict[str, RoleName] = Field(default_factory=dict)
    """Role by the exact value of the header."""
    groups: dict[str, RoleName] = Field(default_factory=dict)
    """Role by the exact name of a group. The highest role counts. A person without a role is refused."""

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for network in given:
            ipaddress.ip_network(network)
        return given


class ConsoleOidc(_Frozen):
    """An OpenID provider that signs people in: authorization code with PKCE."""

    issuer: str
    """Its issuer, exactly as in its discovery document: https, or http on loopback."""
    client_id: str = Field(min_length=1)
    name: str = "single sign-on"
    """What the button on the sign-in page names."""
    name_claim: str = "email"
    """The claim of the ID token that names the person. `email` counts only if the provider has verified the address."""
    groups_claim: str = "groups"
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    users: dict[str, RoleName] = Field(default_factory=dict)
    """Role by the exact value of the claim that names the person."""
    groups: dict[str, RoleName] = Field(default_factory=dict)
    """Role by the exact name of a group. The highest role counts. A person without a role is refused."""

    session_minutes: float = Field(60.0, ge=5, le=1440)
    """How long a sign-in counts. Then the provider is asked again: a person who has lost a group loses the role."""

    @field_validator("issuer")
    @classmethod
    def _is_an_issuer(cls, given: str) -> str:
        if not is_https_or_loopback(given) or "?" in given or "#" in given:
            raise ValueError("not a URL such as https://login.example.com; http only on loopback")
        return given

    @field_validator("scopes")
    @classmethod
    def _has_openid(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in given or not all(given) or any(" " in scope for scope in given):
            raise ValueError("one of the scopes is openid, and none is empty or has a space")
        return given

    @model_validator(mode="after")
    def _lets_someone_in(self) -> ConsoleOidc:
        if not self.users and not self.groups:
            raise ValueError("no one may sign in: give users or groups a role")
        return self


def is_https_or_loopback(url: str) -> bool:
    """Returns whether a URL is https, or http to this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))


class ConsoleConfig(_Frozen):
    """Who may use the console (docs/console.md)."""

    users: dict[str, ConsoleUser] = Field(default_factory=dict)
    proxy: ConsoleProxy | None = None
    oidc: ConsoleOidc | None = None
    session_hours: float = Field(12.0, gt=0, le=168)
    """Hours after which a person signs in again."""


class ConsoleSettings(BaseSettings):
    """The environment of `billing console`."""

    console_host: str = "127.0.0.1"
    console_port: int = Field(8900, ge=0, le=65535)
    console_public_url: str = ""
    """URL at which browsers reach the console, such as https://billing.example.com; needed beyond loopback. Requests
    with another `Host` are refused."""
    console_token: OptionalSecret = None
    """Signs in once, as admin, on loopback. `billing up` makes a new one at each start. Only the console checks it,
    so that a weak one ends no other process."""
    console_oidc_secret: OptionalSecret = None
    """The client secret at the OpenID provider; empty for a public client."""
    console_read_only: bool = False
    """Serves no page that changes or reveals anything."""

    console_watches: str = ""
    """The ops URLs of processes to show, as `name=http://host:port,name=…`; empty: none."""

    @property
    def console_base(self) -> str:
        """Returns the URL at which browsers reach the console, without a path."""
        host = f"[{self.console_host}]" if ":" in self.console_host else self.console_host
        return self.console_public_url or f"http://{host}:{self.console_port}"

    @property
    def console_watched(self) -> dict[str, str]:
        """Returns the ops URLs by the names of their processes."""
        pairs = (one.partition("=") for one in self.console_watches.split(",") if one.strip())
        return {name.strip(): url.strip().rstrip("/") for name, _, url in pairs}

    @field_validator("console_watches")
    @classmethod
    def _are_named_urls(cls, given: str) -> str:
        for one in given.split(","):
            name, _, url = one.partition("=")
            if one.strip() and (not name.strip() or not url.strip().startswith(("http://", "https://"))):
                raise ValueError(f"{one.strip()} is not name=http://host:port")
        return given

    @field_validator("console_public_url")
    @classmethod
    def _is_a_url(cls, given: str) -> str:
        if not given:
            return given
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") or parts.query:
            raise ValueError("not a URL such as https://billing.example.com, without a path")
        return given.rstrip("/")
