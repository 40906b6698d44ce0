"""The table `feed` of the config: where changes of access, subscriptions and payments are sent (behaviours.md F3)."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from schemas.guessable import is_regular
from schemas.network import Network, is_reachable
from schemas.plugin_registry import handler_names, handlers_of, notification_types

NotificationType = Literal[
    "access.changed",
    "subscription.created",
    "subscription.updated",
    "subscription.ended",
    "payment.succeeded",
    "payment.failed",
    "payment.refunded",
    "payment.disputed",
    "payment.fulfilled",
    "payment.closed",
    "payment.lost",
    "dunning.step",
]
TYPES: tuple[str, ...] = get_args(NotificationType)

TOPIC = "topic"
"""The name of the destination that is Kafka's topic of changes. No destination of the config may have it."""

_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_url(url: str) -> str:
    """Refuses what is no address of a receiver. The message does not repeat it: it may contain a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError("is not an https:// URL with a host")
    if not parts.hostname.isascii() or (parts.hostname.replace(".", "").isdigit() and not _is_address(parts.hostname)):
        # The system reads 127.1 and 2130706433 as addresses, so they would not be checked as such.
        raise ValueError("has a host that is neither a name in ASCII nor an IP address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user or password: requests are signed, so the receiver needs none")
    if parts.fragment or any(not char.isprintable() or char == " " for char in url):
        raise ValueError("has a fragment, a blank or a control character")
    return url


class Destination(BaseModel):
    """One receiver of notifications."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_is_url)]
    events: tuple[str, ...] = ("*",)
    """The types it receives; `*` matches any characters: `access.*`."""
    secrets: tuple[SecretStr, ...] = Field((), max_length=2)
    """`whsec_` and base64; two while a secret is rotated: each request then has both signatures."""
    allow_networks: tuple[Network, ...] = ()
    """Private networks (CIDR) in which the receiver may be. Without it, only public addresses are connected to."""

    @field_validator("events")
    @classmethod
    def _are_types(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        known = (*TYPES, *notification_types())
        unknown = [pattern for pattern in patterns if not any(fnmatchcase(type_, pattern) for type_ in known)]
        if unknown or not patterns:
            raise ValueError(f"no such event: {', '.join(unknown) or 'none is named'}; they are {', '.join(known)}")
        return patterns

    @field_validator("secrets")
    @classmethod
    def _can_sign(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            if (reason := weakness_of(secret.get_secret_value())) is not None:
                raise ValueError(reason)
        return secrets

    @model_validator(mode="after")
    def _may_be_connected_to(self) -> Destination:
        host = urlsplit(self.url).hostname or ""
        try:
            address = ip_address(host)
        except ValueError:
            return self
        if not is_reachable(address, self.allow_networks):
            raise ValueError(f"{host} is not a public address: name its network in allow_networks")
        return self

    @property
    def is_encrypted(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    def wants(self, type_: str) -> bool:
        """Whether it receives notifications of this type."""
        return any(fnmatchcase(type_, pattern) for pattern in self.events)


class Feed(BaseModel):
    """Receivers of notifications, and the topic of changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    destinations: dict[str, Destination] = Field(default_factory=dict, max_length=20)
    topic: bool = False
    """Whether changes are also written to the topic `{prefix}.changes`."""
    disable_after_days: int = Field(5, ge=1, le=30)
    """A receiver that has accepted nothing for these days, and refused something, is disabled until an operator
    enables it again."""

    @field_validator("destinations")
    @classmethod
    def _have_names(cls, destinations: dict[str, Destination]) -> dict[str, Destination]:
        for name in destinations:
            if not _NAME.fullmatch(name) or name == TOPIC:
                raise ValueError(f"{name!r} is not a name: lower-case letters, digits, - and _, and not {TOPIC!r}")
        if len({name.replace("-", "_") for name in destinations}) < len(destinations):
            raise ValueError("two names differ only in - and _, so they would share the variable of their secrets")
        if taken := sorted(destinations.keys() & set(handler_names())):
            raise ValueError(f"{taken[0]!r} is the name of a plugin's handler")
        return destinations

    @property
    def clear_urls(self) -> list[str]:
        """The keys of the addresses without TLS. Within a private network that the config names, that is allowed."""
        found = self.destinations.items()
        return [
            f"feed.destinations.{name}.url" for name, one in found if not one.is_encrypted and not one.allow_networks
        ]

    @property
    def is_on(self) -> bool:
        """Whether any change is sent anywhere."""
        return self.topic or bool(self.destinations) or bool(handler_names())

    @property
    def names(self) -> list[str]:
        """The names of all destinations: those of the config, handlers of plugins, and the topic."""
        return [*self.destinations, *handler_names(), *([TOPIC] if self.topic else [])]

    def receivers(self, type_: str) -> list[str]:
        """Returns the names of the destinations that receive this type, in the order of the config."""
        names = [name for name, destination in self.destinations.items() if destination.wants(type_)]
        return [*names, *handlers_of(type_), *([TOPIC] if self.topic else [])]


def weakness_of(secret: str) -> str | None:
    """Returns why this secret cannot sign notifications, or None. The reason does not contain the secret."""
    if not secret.startswith(_PREFIX):
        return "a secret does not begin with whsec_: `billing feed secret` makes one"
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (Base64Error, ValueError):
        return "a secret is not base64 after whsec_: `billing feed secret` makes one"
    if len(key) not in _SECRET_BYTES or len(set(key)) < len(key) // 3 or is_regular(key.decode("latin-1")):
        return "a secret does not have 24 to 64 random bytes: `billing feed secret` makes one"
    return None
