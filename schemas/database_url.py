"""The address of Postgres, with what must be known to connect: its TLS state, a pooler in front, a direct address."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import SecretStr

from schemas.errors import BillingError

_UNENCRYPTED = ("disable", "allow", "prefer")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS_MODES = (*_UNENCRYPTED, "require", "verify-ca", "verify-full")


class InvalidDatabaseUrl(BillingError, ValueError):
    """The URL can't be used. The message does not show it, since it contains the password."""


class Pooler(StrEnum):
    """What is between this process and Postgres, as PgBouncer's `pool_mode` names it."""

    AUTO = "auto"
    """Find out when connecting."""
    NONE = "none"
    SESSION = "session"
    TRANSACTION = "transaction"


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL that this project looks at. `dsn` is for asyncpg."""

    dsn: str
    hosts: tuple[str, ...]
    places: frozenset[str]
    """host:port of each server."""
    database: str
    tls: str
    """The sslmode in effect."""


class DatabaseUrl(SecretStr):
    """A URL of Postgres together with the settings that belong to it. Functions that take a SecretStr accept it."""

    def __init__(
        self,
        secret_value: str,
        *,
        pooler: Pooler = Pooler.AUTO,
        direct: str | None = None,
        allow_plaintext: bool = False,
    ) -> None:
        super().__init__(secret_value)
        self.pooler = pooler
        self.direct = direct
        """URL without a pooler, for LISTEN, migrations and session locks. None: the same URL is used."""
        self.allow_plaintext = allow_plaintext

    @classmethod
    def of(cls, url: SecretStr) -> DatabaseUrl:
        """Returns the URL itself, or with the default settings if it has none."""
        return url if isinstance(url, DatabaseUrl) else cls(url.get_secret_value())

    def for_other(self, url: SecretStr) -> DatabaseUrl:
        """Returns another database's URL with this one's permission for unencrypted connections."""
        return DatabaseUrl(url.get_secret_value(), allow_plaintext=self.allow_plaintext)

    def without_pooler(self) -> DatabaseUrl:
        """Returns the direct URL, or this one if there is none."""
        if self.direct is None:
            return self
        return DatabaseUrl(self.direct, allow_plaintext=self.allow_plaintext)

    def address(self) -> Address:
        """Returns the parsed URL. Raises InvalidDatabaseUrl, also for a remote server without TLS."""
        return parse(self.get_secret_value(), allow_plaintext=self.allow_plaintext)


def parse(url: str, *, allow_plaintext: bool = False) -> Address:
    """Parses `postgresql://user:password@host:port[,host:port]/database?sslmode=…`. Raises InvalidDatabaseUrl.

    A remote host without `sslmode` gets `require`; a weaker mode for it is refused unless `allow_plaintext`. Several
    hosts without `target_session_attrs` get `read-write`, so that a promoted replica is found.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise InvalidDatabaseUrl("expected postgresql://user:password@host:port/database")
    try:
        parts = urlsplit(f"postgresql://{rest}")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        named = [one for one in (*_places(parts.netloc), *_in_query(query)) if one]
        # Without a host in the URL, asyncpg connects to that of PGHOST.
        found = [_host_and_port(one) for one in named or os.environ.get("PGHOST", "").split(",") if one]
    except ValueError:
        raise InvalidDatabaseUrl("expected postgresql://user:password@host:port/database") from None
    if "service" in query or (not named and os.environ.get("PGSERVICE")):
        raise InvalidDatabaseUrl(
            "the server of a libpq service cannot be checked for TLS: name its host, not a service"
        )
    hosts = tuple(host for host, _ in found)
    is_remote = not all(map(is_local, hosts))
    mode = query.get("sslmode")
    if mode is not None and mode not in _TLS_MODES:
        raise InvalidDatabaseUrl(f"sslmode must be one of {', '.join(_TLS_MODES)}")
    if is_remote and mode in _UNENCRYPTED and not allow_plaintext:
        raise InvalidDatabaseUrl(
            f"sslmode={mode} would allow unencrypted connections to a remote server: use sslmode=verify-full or "
            "require, or set BILLING_DATABASE_ALLOW_PLAINTEXT=true"
        )
    if mode is None:
        query["sslmode"] = mode = "require" if is_remote and not allow_plaintext else "prefer"
    for name in _FILES:
        if (file := query.get(name)) and not os.access(file, os.R_OK):
            raise InvalidDatabaseUrl(f"{name}: cannot read {file}")
    if len(hosts) > 1:
        query.setdefault("target_session_attrs", "read-write")
    places = frozenset(f"{host}:{port}" for host, port in found)
    full = f"postgresql://{parts.netloc}{parts.path}?{urlencode(query)}"
    return Address(full, hosts, places, parts.path.lstrip("/"), mode)


def is_local(host: str) -> bool:
    """Whether traffic to this host stays on this machine: a loopback address or the folder of a Unix socket."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _places(netloc: str) -> list[str]:
    # As asyncpg divides it: what follows the first @ is the hosts.
    return netloc.partition("@")[2].split(",") if "@" in netloc else netloc.split(",")


def _host_and_port(place: str) -> tuple[str, int]:
    """Returns the parts of `host:port`. Raises ValueError for a wrong port."""
    if place.startswith("/"):  # the folder of a Unix socket
        return place, 5432
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    number = int(port) if port else 5432
    if not 0 < number < 65536:
        raise ValueError("port out of range")
    return unquote(host), number


def _in_query(query: dict[str, str]) -> tuple[str, ...]:
    """Returns the hosts given as `?host=`, which asyncpg accepts for Unix sockets."""
    return tuple(query["host"].split(",")) if query.get("host") else ()
